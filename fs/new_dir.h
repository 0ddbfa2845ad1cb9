/* SPDX-License-Identifier: MIT */
#ifndef FS_NEW_DIR_H
#define FS_NEW_DIR_H

#include "node.h"

extern const struct node_ops new_dir_ops; /* object: the slot of new/ or of new/@N/ */
extern const struct node_ops draft_ops;   /* object: struct draft */

struct queue;

/* The priority that publishing through this directory means: N of new/@N/, -1 in new/. */
int new_dir_priority(const struct node *dir);

/* user.mqfs.delay, in ms: 24 days, the longest delay level (mqfs/retry.h). */
#define DELAY_MAX_MS (2097152LL * 1000)

#endif
