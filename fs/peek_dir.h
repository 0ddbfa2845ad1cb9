/* SPDX-License-Identifier: MIT */
#ifndef FS_PEEK_DIR_H
#define FS_PEEK_DIR_H

#include "node.h"

/* peek/: what is in pending/ and claimed/, to look at: NAME/body, NAME/meta.json. Looking takes nothing. */
extern const struct node_ops peek_dir_ops;

#endif
