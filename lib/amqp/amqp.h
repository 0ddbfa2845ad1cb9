/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_AMQP_H
#define MQFS_AMQP_AMQP_H

#include <mqfs/backend.h>
#include <mqfs/settings.h>

/*
 * Opens the RabbitMQ backend of an amqp:// URL. Blocks until publishing, consuming and administration
 * have a connection each, at most settings->connect_timeout_ms; hosts are tried in turn. 0, or
 * -EINVAL (not a URL that can be used), -EACCES (user name or password), -ENOENT (virtual host),
 * -EHOSTDOWN, -ETIMEDOUT, -ENOMEM, with *ret_error a new string for people, without credentials.
 */
int mqfs_amqp_open(const char *url, const struct mqfs_settings *settings, struct mqfs_backend **ret_backend,
                   char **ret_error);

#endif
