/* SPDX-License-Identifier: MIT */
#ifndef FS_DRAFT_XATTR_H
#define FS_DRAFT_XATTR_H

#include "node.h"

/* Properties and headers of a draft as extended attributes (P3, P7): functions of node_ops. */
bool draft_xattr_away(struct fs *fs, struct node *node);
void draft_xattr_fetch(struct fs *fs, fuse_req_t req, struct node *node, struct fetch *fetch);
int draft_xattr_set(struct fs *fs, struct node *node, const char *name, const char *value, size_t bytes);
int draft_xattr_get(struct fs *fs, struct node *node, const char *name, char **ret_value, size_t *ret_bytes);
int draft_xattr_remove(struct fs *fs, struct node *node, const char *name);
void draft_xattr_list(struct fs *fs, struct node *node, void (*each)(const char *name, void *arg), void *arg);

#endif
