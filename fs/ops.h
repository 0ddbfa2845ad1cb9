/* SPDX-License-Identifier: MIT */
#ifndef FS_OPS_H
#define FS_OPS_H

#include "node.h"

/* libfuse's operations: each finds the node, checks what holds for all kinds, and calls its kind. */
extern const struct fuse_lowlevel_ops ops_table;

#endif
