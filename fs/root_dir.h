/* SPDX-License-Identifier: MIT */
#ifndef FS_ROOT_DIR_H
#define FS_ROOT_DIR_H

#include "node.h"

/* MOUNT (object: fs->slots[0]), MOUNT/Q (object: the slot of the queue) and .mqfs/. */
extern const struct node_ops root_dir_ops;
extern const struct node_ops queue_dir_ops;
extern const struct node_ops mqfs_dir_ops;

#endif
