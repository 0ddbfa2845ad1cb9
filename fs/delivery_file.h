/* SPDX-License-Identifier: MIT */
#ifndef FS_DELIVERY_FILE_H
#define FS_DELIVERY_FILE_H

#include <stdint.h>

#include "node.h"

/*
 * pending/X and claimed/X as files: opening pending/X takes it (C3), a taker that is killed with it open gives it
 * back, `touch` prolongs the claim (C8), and with ack-on = read the close() after the last byte acknowledges (C10).
 * By name they are pending_dir.c's. object: struct mqfs_delivery.
 */
extern const struct node_ops delivery_file_ops;

struct mqfs_delivery;

/* Takes it for the caller, whose family may settle it. 0, -EBUSY, -ENOENT. Reads /proc: no lock. */
int delivery_file_take(struct queue *queue, struct mqfs_delivery *delivery, pid_t tid);

/* C3: its taker was killed with it open: the family has a moment to settle, then it goes back. No lock. */
void delivery_file_abandon(struct queue *queue, struct mqfs_delivery *delivery);

/* Housekeeping: gives back what killed takers left (C3). No lock. */
int64_t delivery_file_tick(struct fs *fs, struct queue *queue, int64_t now_ms);
/* (locked) The queue is gone. */
void delivery_file_forget_abandoned(struct queue *queue);

#endif
