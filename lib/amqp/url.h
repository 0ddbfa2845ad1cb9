/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_URL_H
#define MQFS_AMQP_URL_H

#include <stdbool.h>
#include <stddef.h>

/*
 * amqp://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]]...[/VHOST]
 *
 * Every part may hold %XX (all values but %00). An IPv6 address stands in brackets. Without a user it is guest:guest,
 * without a port 5672, and without a virtual host, or with an empty one, "/". Pure; nothing blocks.
 */
struct url_host {
	char *name; /* without brackets */
	int port;
};

struct url {
	bool tls;
	char *user;
	char *password;
	char *vhost;
	struct url_host *hosts;
	size_t count; /* of hosts, >= 1 */
};

/* 0, -EINVAL with *ret_error a static text without any part of the URL, or -ENOMEM. */
int url_parse(const char *text, struct url **ret_url, const char **ret_error);
struct url *url_free(struct url *url); /* takes NULL, returns NULL */

/* "amqp://HOST:PORT/VHOST" of one host, escaped again and without credentials; truncates as snprintf does. */
void url_describe(const struct url *url, size_t host, char *buffer, size_t bytes);

#endif
