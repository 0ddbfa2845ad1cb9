/* SPDX-License-Identifier: MIT */
#ifndef FS_TEXT_FILE_H
#define FS_TEXT_FILE_H

#include "node.h"

/*
 * Files whose text is made when they are opened: stats, status, README, and what is known of a message
 * (meta.json, error). An open file shows the text of its moment.
 */
extern const struct node_ops stats_file_ops;  /* object: a queue's slot */
extern const struct node_ops status_file_ops; /* object: one of fs->slots */
extern const struct node_ops readme_file_ops;

/* Building blocks for kinds with a text of their own. text is taken over (free); NULL answers ENOMEM. */
void text_reply_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi, char *text);
void text_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset, struct fuse_file_info *fi);
void text_release(struct fs *fs, struct node *node, struct fuse_file_info *fi);

#endif
