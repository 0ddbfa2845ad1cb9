/* SPDX-License-Identifier: MIT */
#include "url.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PORT_PLAIN 5672
#define PORT_TLS 5671
#define HOSTS_MAX 64
#define VHOST_BYTES_MAX 255 /* a short string */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The text between begin and end with its %XX resolved: 0, -EINVAL, -ENOMEM. */
static int unescape(const char *begin, const char *end, char **ret_text)
{
	char *text = malloc((size_t)(end - begin) + 1), *to = text;
	int high, low;

	if (!text)
		return -ENOMEM;
	while (begin < end) {
		if (*begin != '%') {
			*to++ = *begin++;
			continue;
		}
		high = end - begin > 2 ? hex_digit(begin[1]) : -1;
		low = end - begin > 2 ? hex_digit(begin[2]) : -1;
		if (high < 0 || low < 0 || high + low == 0) {
			free(text);
			return -EINVAL;
		}
		*to++ = (char)(high * 16 + low);
		begin += 3;
	}
	*to = '\0';
	*ret_text = text;
	return 0;
}

static const char *find(const char *begin, const char *end, char c)
{
	const char *at = memchr(begin, c, (size_t)(end - begin));

	return at ? at : end;
}

static int parse_credentials(struct url *url, const char *begin, const char *end, const char **ret_error)
{
	const char *colon = find(begin, end, ':');
	int r;

	*ret_error = "a % in the user name or password is not followed by two hexadecimal digits";
	r = unescape(begin, colon, &url->user);
	if (r == 0)
		r = unescape(colon < end ? colon + 1 : end, end, &url->password);
	if (r == 0 && !*url->user) {
		*ret_error = "the user name is empty";
		r = -EINVAL;
	}
	return r;
}

static int parse_port(const char *begin, const char *end, int *ret_port)
{
	int port = 0;

	if (begin == end || end - begin > 5)
		return -EINVAL;
	for (; begin < end; begin++) {
		if (!isdigit((unsigned char)*begin))
			return -EINVAL;
		port = port * 10 + (*begin - '0');
	}
	if (port < 1 || port > 65535)
		return -EINVAL;
	*ret_port = port;
	return 0;
}

static int parse_host(struct url *url, const char *begin, const char *end, const char **ret_error)
{
	struct url_host *host = &url->hosts[url->count];
	const char *name = begin, *name_end = find(begin, end, ':');
	const char *rest = name_end;
	int r;

	if (begin < end && *begin == '[') {
		name = begin + 1;
		name_end = find(name, end, ']');
		rest = name_end + 1;
		*ret_error = "an IPv6 address lacks its closing bracket";
		if (name_end == end)
			return -EINVAL;
	}
	*ret_error = "a host name is empty or has a bad %XX";
	if (name == name_end)
		return -EINVAL;
	r = unescape(name, name_end, &host->name);
	if (r < 0)
		return r;
	url->count++;
	host->port = url->tls ? PORT_TLS : PORT_PLAIN;
	*ret_error = "a port is not a number from 1 to 65535";
	if (rest == end)
		return 0;
	return *rest == ':' ? parse_port(rest + 1, end, &host->port) : -EINVAL;
}

static int parse_hosts(struct url *url, const char *begin, const char *end, const char **ret_error)
{
	const char *comma;
	int r;

	url->hosts = calloc(HOSTS_MAX, sizeof(*url->hosts));
	if (!url->hosts)
		return -ENOMEM;
	for (;; begin = comma + 1) {
		*ret_error = "too many hosts";
		if (url->count == HOSTS_MAX)
			return -EINVAL;
		comma = find(begin, end, ',');
		r = parse_host(url, begin, comma, ret_error);
		if (r < 0 || comma == end)
			return r;
	}
}

static int parse_vhost(struct url *url, const char *begin, const char *end, const char **ret_error)
{
	int r;

	*ret_error = "the virtual host has a bad %XX, or a '/', which is written %2F";
	if (find(begin, end, '/') != end)
		return -EINVAL;
	if (begin == end)
		end = (begin = "%2F") + 3;
	r = unescape(begin, end, &url->vhost);
	if (r == 0 && strlen(url->vhost) > VHOST_BYTES_MAX) {
		*ret_error = "the virtual host is longer than 255 bytes";
		r = -EINVAL;
	}
	return r;
}

static int parse_scheme(struct url *url, const char **text)
{
	static const char plain[] = "amqp://", tls[] = "amqps://";

	if (strncasecmp(*text, plain, strlen(plain)) == 0) {
		*text += strlen(plain);
		return 0;
	}
	if (strncasecmp(*text, tls, strlen(tls)) != 0)
		return -EINVAL;
	*text += strlen(tls);
	url->tls = true;
	return 0;
}

static int parse(struct url *url, const char *text, const char **ret_error)
{
	static const char guest[] = "guest:guest";
	const char *end = text + strlen(text), *slash, *at;
	int r;

	*ret_error = "it does not begin with amqp:// or amqps://";
	if (parse_scheme(url, &text) < 0)
		return -EINVAL;
	*ret_error = "it has a query or a fragment, which mean nothing here";
	if (strpbrk(text, "?#"))
		return -EINVAL;
	slash = find(text, end, '/');
	at = find(text, slash, '@');
	/* Half of a password could be taken for a host, and be shown. */
	*ret_error = "an @ in the user name or the password must be written %40";
	if (at < slash && find(at + 1, slash, '@') < slash)
		return -EINVAL;
	if (at < slash)
		r = parse_credentials(url, text, at, ret_error);
	else
		r = parse_credentials(url, guest, &guest[strlen(guest)], ret_error);
	if (r < 0)
		return r;
	r = parse_hosts(url, at < slash ? at + 1 : text, slash, ret_error);
	if (r < 0)
		return r;
	return parse_vhost(url, slash < end ? slash + 1 : end, end, ret_error);
}

int url_parse(const char *text, struct url **ret_url, const char **ret_error)
{
	struct url *url = calloc(1, sizeof(*url));
	int r;

	if (!url)
		return -ENOMEM;
	r = parse(url, text, ret_error);
	if (r < 0) {
		url_free(url);
		return r;
	}
	*ret_url = url;
	return 0;
}

struct url *url_free(struct url *url)
{
	if (!url)
		return NULL;
	for (size_t i = 0; i < url->count; i++)
		free(url->hosts[i].name);
	free(url->hosts);
	free(url->user);
	if (url->password)
		explicit_bzero(url->password, strlen(url->password));
	free(url->password);
	free(url->vhost);
	free(url);
	return NULL;
}

/* Appends text, with %XX for what would not come back from url_parse as it is. */
static void append_escaped(char *buffer, size_t bytes, const char *text)
{
	size_t used = strlen(buffer);

	for (; *text && used + 4 < bytes; text++) {
		if (isalnum((unsigned char)*text) || strchr("-._~:", *text))
			used += (size_t)snprintf(buffer + used, bytes - used, "%c", *text);
		else
			used += (size_t)snprintf(buffer + used, bytes - used, "%%%02X", (unsigned char)*text);
	}
}

void url_describe(const struct url *url, size_t host, char *buffer, size_t bytes)
{
	const struct url_host *at = &url->hosts[host];
	bool v6 = strchr(at->name, ':') != NULL;
	size_t used;

	assert(host < url->count);
	snprintf(buffer, bytes, "%s://%s", url->tls ? "amqps" : "amqp", v6 ? "[" : "");
	append_escaped(buffer, bytes, at->name);
	used = strlen(buffer);
	snprintf(buffer + used, bytes - used, "%s:%d/", v6 ? "]" : "", at->port);
	append_escaped(buffer, bytes, url->vhost);
}
