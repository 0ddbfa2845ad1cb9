/* SPDX-License-Identifier: MIT */
#ifndef FS_PENDING_DIR_H
#define FS_PENDING_DIR_H

#include <mqfs/delivery.h>

#include "node.h"

/*
 * pending/ and claimed/: the deliveries of this mount as files. pending/X and claimed/X have an inode each,
 * since the kernel answers a rename between two names of one inode itself.
 */
extern const struct node_ops pending_dir_ops;
extern const struct node_ops claimed_dir_ops;

/* (locked) Adds what is in that state. */
void pending_add_to_listing(struct fs *fs, struct queue *queue, enum mqfs_delivery_state state, enum view view,
                            mode_t type, struct listing *listing);

#endif
