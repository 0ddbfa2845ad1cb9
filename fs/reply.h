/* SPDX-License-Identifier: MIT */
#ifndef FS_REPLY_H
#define FS_REPLY_H

#include "fuse.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Parked requests: those whose answer comes from another thread. A parked request is answered exactly
 * once, by whoever gets it from unpark(): the completion, its deadline (ETIMEDOUT, but see park_until), or the end of
 * its caller (EINTR). Everybody names it by a ticket, which is never used twice, so that who comes too late finds
 * nothing.
 *
 * INTERRUPT comes for every signal, also for one whose handler restarts system calls; answering it would
 * make a close() fail whose message was accepted. So it counts only when the signal is fatal, unless the wait is of
 * the kind that any signal ends.
 */

struct fs;
struct node;

typedef uint64_t ticket_t;

enum interrupt { INTERRUPT_WHEN_DYING, INTERRUPT_ANY_SIGNAL };

/*
 * Parks req until deadline_ms (monotonic; MQFS_NEVER: none). Before the deadline or the interrupt answers it, abandoned
 * (may be NULL) is called with arg and no lock held. 0 when out of memory: the request has then been answered
 * ENOMEM. No lock may be held (libfuse calls back from fuse_req_interrupt_func).
 */
ticket_t park(struct fs *fs, fuse_req_t req, int64_t deadline_ms, enum interrupt interrupt,
              void (*abandoned)(struct fs *fs, void *arg), void *arg);

/* The same for what has an answer in memory, which may be better later: at deadline_ms answer replies, with no lock
 * held, and whoever comes then finds nothing. */
ticket_t park_until(struct fs *fs, fuse_req_t req, int64_t deadline_ms, void (*answer)(struct fs *fs, fuse_req_t req));

/* Does the kernel hold a directory's lock until the request that this thread handles now is answered? What is parked
 * then keeps names from being forgotten (notify.h). */
void park_holding(bool holding);
bool park_is_holding(void);

/* The request, which the caller must answer now, or NULL when it has been answered. */
fuse_req_t unpark(struct fs *fs, ticket_t ticket);

/* Answers the request of a ticket with an error (0: success), if nobody has. */
void unpark_error(struct fs *fs, ticket_t ticket, int error);

/* Housekeeping's: deadlines, and callers that died after an interrupt that was none. Returns when to look again. */
int64_t parked_tick(struct fs *fs, int64_t now_ms);

/* Answers everything with error and calls no abandoned function: the end. */
void parked_end(struct fs *fs, int error);

/* Hands a node from tree_node() to the kernel, or forgets it when the caller has gone. No lock. */
void reply_entry(struct fs *fs, fuse_req_t req, struct node *node);
void reply_create(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi);

/* A part of a buffer, as READ wants it. The buffer stays for the call: its reader may have closed the file, and what it
 * shows be gone, before the call returns. */
void reply_slice(fuse_req_t req, const void *data, size_t bytes, size_t size, off_t offset);

/* The same of a body, which it holds meanwhile. */
struct mqfs_body;
void reply_body(fuse_req_t req, struct mqfs_body *body, size_t size, off_t offset);

#endif
