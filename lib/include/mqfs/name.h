/* SPDX-License-Identifier: MIT */
#ifndef MQFS_NAME_H
#define MQFS_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mqfs/message.h>

/*
 * Names: of queues as files, of helper queues, of messages as files. Pure; nothing blocks. Buffers
 * are NUL-terminated.
 */

#define MQFS_NAME_MAX 255             /* bytes: a file name (NAME_MAX) and an AMQP queue name */
#define MQFS_QUEUE_NAME_MKDIR_MAX 235 /* bytes: leaves room for "mqfs.delay." and ".4096" */
#define MQFS_MESSAGE_NAME_MAX 200     /* bytes of a name in pending/, claimed/, retry/, dead/ */

typedef char mqfs_name_t[MQFS_NAME_MAX + 1];

/*
 * The file name of a queue: '/', '%', a leading '.', and control characters become %XX. Where the
 * result would pass 255 bytes it is cut and ends in "%~" and 16 hex digits of SHA-256 of the queue's
 * name: such a file name can't be decoded, only compared.
 */
void mqfs_name_encode(const char *queue, mqfs_name_t ret_file);

/*
 * The queue name of a file name. Returns 0; -EINVAL for what mqfs_name_encode would not have written: a
 * raw leading dot or control character, a % that is not followed by two hex digits, %00, small digits, or %XX for a
 * character that needs none; -ENAMETOOLONG when it can't fit.
 */
int mqfs_name_decode(const char *file, mqfs_name_t ret_queue);

/* Is it a helper ("mqfs." prefix) or reserved ("amq." prefix)? Q.dead is the caller's to tell. */
bool mqfs_name_is_reserved(const char *queue);

/* Q.dead; over-long names end in a digest. */
void mqfs_name_dead_queue(const char *queue, mqfs_name_t ret_name);
/* mqfs.delay.Q.L, L in seconds ("1" .. ) or, below a second, in milliseconds ("500ms"). */
void mqfs_name_delay_queue(const char *queue, int64_t level_ms, mqfs_name_t ret_name);

/*
 * The file name of a delivery: "<seconds>.<micros>-<file name>". stamp_us are microseconds since the
 * epoch. The second part is the header mqfs-filename, else the message-id, else "message"; control
 * characters and '/' become %XX; the whole is cut at a UTF-8 character so that it stays within
 * MQFS_MESSAGE_NAME_MAX - 4 (room for "~NN"). Bytes that are not UTF-8 become %XX too.
 */
void mqfs_name_message(int64_t stamp_us, const struct mqfs_message *message, mqfs_name_t ret_name);

/*
 * The same for messages that are looked at in dead/ and retry/: the stamp comes from the message
 * (header mqfs-published in microseconds, else the timestamp property, else 0), so that every host and every look
 * gives one name; without file name and message-id the second part is 16 hex digits of SHA-256 of
 * the body. Twins get "~2", "~3" from the caller.
 */
void mqfs_name_kept_message(const struct mqfs_message *message, mqfs_name_t ret_name);

#endif
