/* SPDX-License-Identifier: MIT */
#ifndef FS_CONFIG_DIR_H
#define FS_CONFIG_DIR_H

#include "node.h"

/* config/ of a queue: one file a setting that can change at run time (M7), as in sysfs. */
extern const struct node_ops config_dir_ops;

#endif
