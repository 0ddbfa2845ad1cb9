/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/url.h"

#include "core.h"

/*
 * How a state file is named. The broker is what its hosts and virtual host say, whoever logs in and in whichever order
 * the hosts are tried, so that a changed password or a reordered URL finds what was left. The name has some of it for
 * people, and a digest of all of it.
 */

enum {
	READABLE_BYTES_MAX = 80,
	DIGEST_BYTES = 8,
};

static int compare_hosts(const void *a, const void *b)
{
	const struct url_host *left = a, *right = b;
	int order = strcasecmp(left->name, right->name);

	return order != 0 ? order : left->port - right->port;
}

/* Writes text with %XX for all that is not plain; host names in lower case. */
static void write_escaped(FILE *out, const char *text, bool lower)
{
	for (; *text; text++) {
		unsigned char byte = (unsigned char)*text;

		if (isalnum(byte) || strchr("-._~:", byte))
			fputc(lower ? tolower(byte) : byte, out);
		else
			fprintf(out, "%%%02X", byte);
	}
}

static void write_peer(FILE *out, struct url *url)
{
	qsort(url->hosts, url->count, sizeof(*url->hosts), compare_hosts);
	fputs(url->tls ? "amqps://" : "amqp://", out);
	for (size_t i = 0; i < url->count; i++) {
		const struct url_host *host = &url->hosts[i];
		bool v6 = strchr(host->name, ':') != NULL;

		if (i > 0 && compare_hosts(host, host - 1) == 0)
			continue;
		fprintf(out, "%s%s", i > 0 ? "," : "", v6 ? "[" : "");
		write_escaped(out, host->name, true);
		fprintf(out, "%s:%d", v6 ? "]" : "", host->port);
	}
	fputc('/', out);
	write_escaped(out, url->vhost, false);
}

static int amqp_peer(const char *text, char **ret_peer)
{
	const char *error;
	char *peer = NULL;
	struct url *url;
	size_t bytes;
	FILE *out;
	int r = url_parse(text, &url, &error);

	if (r < 0)
		return r;
	out = open_memstream(&peer, &bytes);
	if (out)
		write_peer(out, url);
	url_free(url);
	if (!out || fclose(out) != 0) {
		free(peer);
		return -ENOMEM;
	}
	*ret_peer = peer;
	return 0;
}

/* The real path, also of a file that isn't there yet: then of its directory, if that is. */
static char *real_path(const char *path)
{
	char *real = realpath(path, NULL), *directory, *at, *joined = NULL;
	const char *slash = strrchr(path, '/');

	if (real || (errno != ENOENT && errno != ENOTDIR))
		return real;
	at = slash == path ? strdup("/") : slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
	directory = at ? real_path(at) : NULL;
	free(at);
	if (directory &&
	    asprintf(&joined, "%s/%s", strcmp(directory, "/") == 0 ? "" : directory, slash ? slash + 1 : path) < 0)
		joined = NULL;
	free(directory);
	return joined;
}

static int sqlite_peer(const char *path, char **ret_peer)
{
	char *real = real_path(path);
	int r;

	if (!real)
		return errno == ENOMEM ? -ENOMEM : -errno;
	r = asprintf(ret_peer, "sqlite:%s", real) < 0 ? -ENOMEM : 0;
	free(real);
	return r;
}

int file_peer(const char *url, char **ret_peer)
{
	if (strncmp(url, "sqlite:", 7) == 0 && url[7])
		return sqlite_peer(url + 7, ret_peer);
	return amqp_peer(url, ret_peer);
}

int file_path(const char *directory, const char *peer, char **ret_path)
{
	unsigned char sha[EVP_MAX_MD_SIZE] = {0};
	char digest[2 * DIGEST_BYTES + 1], readable[READABLE_BYTES_MAX + 1];
	size_t used = 0;

	EVP_Digest(peer, strlen(peer), sha, NULL, EVP_sha256(), NULL);
	for (size_t i = 0; i < DIGEST_BYTES; i++)
		sprintf(digest + 2 * i, "%02x", sha[i]);
	/* Whatever is odd, and each run of it, becomes one dash. */
	for (const char *at = peer; *at && used < READABLE_BYTES_MAX; at++) {
		bool plain = isalnum((unsigned char)*at) || strchr("._", *at);

		if (plain || (used > 0 && readable[used - 1] != '-'))
			readable[used++] = plain ? *at : '-';
	}
	while (used > 0 && readable[used - 1] == '-')
		used--;
	readable[used] = '\0';
	return asprintf(ret_path, "%s/%s-%s" FILE_SUFFIX, directory, readable, digest) < 0 ? -ENOMEM : 0;
}
