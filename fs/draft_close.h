/* SPDX-License-Identifier: MIT */
#ifndef FS_DRAFT_CLOSE_H
#define FS_DRAFT_CLOSE_H

#include "node.h"

/* The moments in which a close() makes a draft a message (P8, complete.h): functions of node_ops. */
void draft_flush(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi);
void draft_release(struct fs *fs, struct node *node, struct fuse_file_info *fi);

#endif
