/* SPDX-License-Identifier: MIT */
#ifndef FS_DRAFT_SEND_H
#define FS_DRAFT_SEND_H

#include "draft.h"

/*
 * A draft becomes a message: it is published, and what the broker can't take now goes to the outbox (P6).
 */

/*
 * (locked) Prepares it to be published as name in queue's directory of that priority and makes it SENDING. Its content
 * is in memory. 0; -EIO for what is spoiled or half-written; -EBUSY when it is being sent, or a close() of it waits;
 * -ENOMEM.
 */
int draft_prepare(struct draft *draft, struct queue *queue, int priority, const char *name);

/*
 * Publishes what draft_prepare has prepared. Called without the lock. A confirmed one becomes a ghost. When the broker
 * is away or silent until deadline_ms (monotonic), or others of its queue wait in the outbox already, it is QUEUED. A
 * refused one is kept, or, when a rename sent it, is again what it was. Then ticket, when not 0, is answered: with 0
 * for what is the broker's or durable in the outbox.
 */
void draft_send(struct fs *fs, struct draft *draft, ticket_t ticket, int64_t deadline_ms);

/* (locked) What is SENDING goes to the outbox instead. */
void draft_enqueue(struct draft *draft);
/* (locked) Neither the broker nor the outbox took what was SENDING. */
void draft_refused(struct draft *draft, int error, const char *reason);

/* (locked) What is sent for it: complete, a message of its own that shares the body. NULL: out of memory. */
struct mqfs_message *draft_message(struct draft *draft, const struct queue *queue, int priority, const char *name);

/* How much longer than its deadline a request may take, for the local disk to keep the message. */
#define DRAFT_STORE_MS 5000

#endif
