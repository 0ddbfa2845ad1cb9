/* SPDX-License-Identifier: MIT */
#ifndef MQFS_PROPERTY_H
#define MQFS_PROPERTY_H

#include <stddef.h>
#include <stdint.h>

#include <mqfs/message.h>

/*
 * Properties and headers by the name and text that users see in xattrs, without the "user.mqfs."
 * prefix: priority, content-type, content-encoding, correlation-id, reply-to, type, app-id,
 * message-id, expiration, and header.NAME. Pure; nothing blocks.
 */

/*
 * Sets one property from text. Returns 0; -EINVAL when the value is not one (a priority outside
 * 0..255, an expiration that is no number of ms, a text over 255 bytes, not UTF-8, with NUL or other
 * control characters; header names are 1..128 bytes and can't start with "x-" or "mqfs-", which belong
 * to the broker and to mqfs, nor be CC or BCC, which brokers take as lists only; header values are UTF-8
 * without NUL up to 4 KiB); -E2BIG when all headers together would pass 32 KiB;
 * -ENODATA for a name that is no property; -EPERM for user-id, timestamp and other names that can't
 * be set; -ENOMEM. A failed call changes nothing.
 */
int mqfs_property_set(struct mqfs_message *message, const char *name, const void *value, size_t bytes);

/* Removes one. 0, -ENODATA when it is not there, -EPERM. */
int mqfs_property_remove(struct mqfs_message *message, const char *name);

/*
 * Gives the text of one in a new string (free it); any header is readable, numbers as decimal, tables
 * as JSON. 0, -ENODATA, -ENOMEM.
 */
int mqfs_property_get(const struct mqfs_message *message, const char *name, char **ret_text, size_t *ret_bytes);

/* Calls each for the name of every property and header that is there ("header.NAME" for headers;
 * a header whose name can't be an xattr name (longer than 200 bytes, empty) is passed over). */
void mqfs_property_each(const struct mqfs_message *message, void (*each)(const char *name, void *arg), void *arg);

/* The media type for a file name's extension, e.g. "application/json"; "application/octet-stream"
 * when there is no better guess. Static text. */
const char *mqfs_property_guess_content_type(const char *file_name);

#endif
