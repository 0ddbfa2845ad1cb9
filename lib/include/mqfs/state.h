/* SPDX-License-Identifier: MIT */
#ifndef MQFS_STATE_H
#define MQFS_STATE_H

#include <stdint.h>

/*
 * What this host must not forget over a restart, for one broker and vhost (or one embedded store): the outbox and the
 * drafts that were not accepted (outbox.h), outcomes that the broker could not be told and takes (records.h). One
 * SQLite file in the state directory, shared by all mounts of this host that have the same broker; one thread, that
 * makes one transaction of all that was queued (WAL, synchronous=FULL: what has completed is durable).
 *
 * The file is named by the broker and vhost: the hosts of the URL in one order, with ports, never the credentials. A
 * file that is damaged, or not ours, or of a newer schema is refused and left untouched.
 */
struct mqfs_state;

/*
 * Opens or makes the file for url in directory (made, mode 0700, when missing). Blocks on the disk. 0, or a negative
 * errno with *ret_error a new string for people that names the file and has no credentials in it.
 */
int mqfs_state_open(const char *directory, const char *url, struct mqfs_state **ret_state, char **ret_error);

/* Completes what is queued (-ESHUTDOWN when the disk does not answer within 2 s), joins the thread, frees. NULL is
 * fine. The outbox and the records that use it must be closed before. */
void mqfs_state_close(struct mqfs_state *state);

/* The path of the file, constant until close. */
const char *mqfs_state_path(const struct mqfs_state *state);

/*
 * Calls each for every other file of the directory that still has messages in its outbox: a broker that no mount of
 * now has. peer is its broker without credentials. Blocks on the disk; once, at the start.
 */
void mqfs_state_each_other(const struct mqfs_state *state,
                           void (*each)(void *arg, const char *path, const char *peer, int64_t messages), void *arg);

#endif
