/* SPDX-License-Identifier: MIT */
#ifndef FS_OPS_H
#define FS_OPS_H

#include "node.h"

/* libfuse's operations: each finds the node, checks what holds for all kinds, and calls its kind. */
extern const struct fuse_lowlevel_ops ops_table;

/* Answers an OPENDIR: the directory's listing is made now. No lock. */
void ops_reply_opendir(struct fs *fs, fuse_req_t req, struct node *dir, const struct fuse_file_info *fi);

#endif
