/* SPDX-License-Identifier: MIT */
#include "options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mqfs/log.h>

#include "mountpoint.h"

/* What mount(8), fstab(5) and systemd.mount(5) add, and what we are anyway. */
static const char *const ignored[] = {
    "defaults", "rw",    "auto",     "noauto",     "user",  "nouser",  "users",       "exec",    "noexec", "suid",
    "nosuid",   "dev",   "nodev",    "async",      "atime", "noatime", "relatime",    "_netdev", "nofail", "fail",
    "owner",    "group", "diratime", "nodiratime", "sync",  "dirsync", "strictatime", "lazytime"};
static const char *const for_fuse[] = {"allow_other", "allow_root", "auto_unmount"};

static bool is_one_of(const char *word, const char *const *words, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(word, words[i]) == 0)
			return true;
	}
	return false;
}

#define IS_ONE_OF(word, words) is_one_of(word, words, sizeof(words) / sizeof((words)[0]))

static int refuse(const char *what, const char *why)
{
	fprintf(stderr, "mqfs: %s: %s\n", what, why);
	return -EINVAL;
}

static int append_fuse(struct options *options, const char *option)
{
	char *joined;
	if (asprintf(&joined, "%s%s%s", options->fuse ? options->fuse : "", options->fuse ? "," : "", option) < 0)
		return -ENOMEM;
	free(options->fuse);
	options->fuse = joined;
	return 0;
}

static int set_log_level(const char *value)
{
	static const struct {
		const char *name;
		enum mqfs_log_level level;
	} levels[] = {{"error", MQFS_LOG_ERROR},
	              {"warning", MQFS_LOG_WARNING},
	              {"info", MQFS_LOG_INFO},
	              {"debug", MQFS_LOG_DEBUG}};
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (strcmp(levels[i].name, value) == 0) {
			mqfs_log_set_level(levels[i].level);
			return 0;
		}
	}
	return refuse("log-level", "must be error, warning, info or debug");
}

static int replace(char **slot, const char *value)
{
	char *copy = strdup(value);
	if (!copy)
		return -ENOMEM;
	free(*slot);
	*slot = copy;
	return 0;
}

/* The daemon's working directory is / (fs/mount.c). Not realpath(3): a stale mount can't be looked at, and an automount
 * must not be; and a store need not be there yet. */
static int make_absolute(const char *path, char **ret_absolute)
{
	if (path[0] == '/')
		return replace(ret_absolute, path);
	char *cwd = getcwd(NULL, 0), *absolute;
	if (!cwd)
		return refuse(path, strerror(errno));
	int length = asprintf(&absolute, "%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, path);
	free(cwd);
	if (length < 0)
		return -ENOMEM;
	free(*ret_absolute);
	*ret_absolute = absolute;
	return 0;
}

static int take_key_value(struct options *options, const char *key, const char *value)
{
	const char *why = "bad value";
	if (strcmp(key, "state-dir") == 0)
		return make_absolute(value, &options->state_dir);
	if (strcmp(key, "log-level") == 0)
		return set_log_level(value);
	if (!mqfs_setting_find(key))
		return refuse(key, "unknown setting");
	int result = mqfs_settings_set(&options->settings, key, value, &why);
	if (result < 0)
		return refuse(key, why ? why : "bad value");
	return 0;
}

static int take_option(struct options *options, char *option)
{
	char *value = strchr(option, '=');
	if (IS_ONE_OF(option, ignored) || strncmp(option, "x-", 2) == 0 || *option == '\0')
		return 0;
	if (IS_ONE_OF(option, for_fuse)) {
		options->allow_other |= strcmp(option, "allow_other") == 0;
		return append_fuse(options, option);
	}
	if (!value) /* "lazy" says lazy=yes; what is no switch refuses it */
		return take_key_value(options, option, "yes");
	*value = '\0';
	return take_key_value(options, option, value + 1);
}

static int take_options(struct options *options, const char *text)
{
	char *copy = strdup(text), *rest = copy, *option;
	int result = copy ? 0 : -ENOMEM;
	while (result == 0 && (option = strsep(&rest, ",")))
		result = take_option(options, option);
	free(copy);
	return result;
}

/* Where the embedded store and other state of this user are. */
static int default_state_dir(struct options *options)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char *dir = NULL;
	int length = -1;
	if (options->state_dir)
		return 0;
	if (xdg && xdg[0] == '/')
		length = asprintf(&dir, "%s/mqfs", xdg);
	else if (geteuid() == 0 || !home || home[0] != '/')
		length = asprintf(&dir, "/var/lib/mqfs");
	else
		length = asprintf(&dir, "%s/.local/state/mqfs", home);
	options->state_dir = length < 0 ? NULL : dir;
	return length < 0 ? -ENOMEM : 0;
}

static bool is_loopback(const char *host, size_t bytes)
{
	char name[64];
	struct in_addr address;
	size_t port = host[0] == '[' ? bytes : strcspn(host, ":");
	bytes = port < bytes ? port : bytes;
	if (bytes >= sizeof(name))
		return false;
	memcpy(name, host, bytes);
	name[bytes] = '\0';
	if (inet_pton(AF_INET, name, &address) == 1)
		return ntohl(address.s_addr) >> 24 == 127;
	return strcmp(name, "localhost") == 0 || strncmp(name, "[::1]", 5) == 0;
}

/* guest's password is everybody's, and RabbitMQ lets it in from the loopback only. */
static bool is_loopback_guest(const char *authority, size_t bytes)
{
	static const char guest[] = "guest:guest@";
	const char *end = authority + bytes, *host = authority + strlen(guest);
	if (strncmp(authority, guest, strlen(guest)) != 0)
		return false;
	for (size_t length; host < end; host += length + 1) {
		length = strcspn(host, ",/");
		if (!is_loopback(host, length))
			return false;
	}
	return true;
}

/* Everybody may read a command line (M3). */
static int check_url(const char *url)
{
	const char *authority = strstr(url, "://");
	if (strncmp(url, "sqlite:", 7) == 0)
		return 0;
	if (strncmp(url, "amqp", 4) != 0 || !authority)
		return refuse("URL", "must be amqp://…, amqps://… or sqlite:PATH");
	authority += 3;
	size_t length = strcspn(authority, "/");
	const char *at = memchr(authority, '@', length), *colon = memchr(authority, ':', length);
	if (at && memchr(at + 1, '@', length - (size_t)(at + 1 - authority)))
		return refuse("URL", "an @ in the user name or the password must be written %40");
	if (at && colon && colon < at && !is_loopback_guest(authority, length))
		return refuse("URL", "a password on the command line is readable by everybody: set MQFS_PASSWORD");
	return 0;
}

/* The environment is its owner's to read. Puts the password, escaped, after the user's name. */
static int add_password(struct options *options)
{
	const char *password = getenv("MQFS_PASSWORD"), *user = strstr(options->url, "://");
	if (!password || strncmp(options->url, "amqp", 4) != 0 || !user)
		return 0;
	user += 3;
	size_t before = strcspn(user, "@/");
	if (user[before] != '@' || memchr(user, ':', before))
		return 0;
	char *url = malloc(strlen(options->url) + 3 * strlen(password) + 2), *end = url;
	if (!url)
		return -ENOMEM;
	end += sprintf(end, "%.*s:", (int)(user + before - options->url), options->url);
	for (; *password; password++)
		end += sprintf(end, "%%%02X", (unsigned char)*password);
	strcpy(end, user + before);
	free(options->url);
	options->url = url;
	return 0;
}

static int make_url_absolute(char **url)
{
	static const char scheme[] = "sqlite:";
	size_t before = strlen(scheme);
	char *path = NULL, *joined;
	if (strncmp(*url, scheme, before) != 0 || (*url)[before] == '\0')
		return 0;
	int result = make_absolute(*url + before, &path);
	if (result < 0)
		return result;
	int length = asprintf(&joined, "%s%s", scheme, path);
	free(path);
	if (length < 0)
		return -ENOMEM;
	free(*url);
	*url = joined;
	return 0;
}

static int default_url(struct options *options)
{
	char *url;
	if (options->url)
		return 0;
	if (asprintf(&url, "sqlite:%s/queues.db", options->state_dir) < 0)
		return -ENOMEM;
	options->url = url;
	return 0;
}

int options_parse(struct options *options, int argc, char **argv)
{
	int result = 0, option;
	memset(options, 0, sizeof(*options));
	mqfs_settings_init(&options->settings);
	optind = 1;
	while (result == 0 && (option = getopt(argc, argv, "fo:")) != -1) {
		if (option == 'f')
			options->foreground = true;
		else if (option == 'o')
			result = take_options(options, optarg);
		else
			result = -EINVAL;
	}
	int places = argc - optind;
	if (result == 0 && (places < 1 || places > 2))
		result = refuse("mount", "usage: mqfs mount [-f] [-o OPTION,…] [URL] DIR");
	if (result == 0 && places == 2)
		result = check_url(argv[optind]);
	if (result == 0 && places == 2)
		result = replace(&options->url, argv[optind]);
	if (result == 0 && places == 2)
		result = make_url_absolute(&options->url);
	if (result == 0)
		result = make_absolute(argv[argc - 1], &options->mountpoint);
	if (result == 0)
		result = default_state_dir(options);
	if (result == 0)
		result = default_url(options);
	if (result == 0)
		result = add_password(options);
	if (result == 0)
		mountpoint_normalise(options->mountpoint);
	return result;
}

void options_clear(struct options *options)
{
	free(options->url);
	free(options->mountpoint);
	free(options->state_dir);
	free(options->fuse);
	memset(options, 0, sizeof(*options));
}
