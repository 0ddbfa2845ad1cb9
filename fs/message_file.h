/* SPDX-License-Identifier: MIT */
#ifndef FS_MESSAGE_FILE_H
#define FS_MESSAGE_FILE_H

#include <stdbool.h>

#include "node.h"

/*
 * What is shown of a message that is looked at: NAME/body, NAME/meta.json, NAME/error, under peek/, retry/
 * and dead/. Reading settles nothing. object: struct mqfs_delivery.
 */
extern const struct node_ops body_file_ops;
extern const struct node_ops meta_file_ops;
extern const struct node_ops reason_file_ops;

struct mqfs_delivery;

/* The child of a message's directory by name; reason: is there an error file? (locked) */
int message_child(struct fs *fs, struct node *dir, const char *name, bool reason, struct node **ret_node);
void message_list(struct fs *fs, struct node *dir, bool reason, struct listing *listing);
/* The view of a file's name, or -1. */
int message_view(const char *name, bool reason);

/* node_ops.hold and .drop of everything that shows a delivery. */
void *message_hold(void *delivery);
void message_drop(void *delivery);
/* mtime is when it was published. */
void message_times(const struct mqfs_delivery *delivery, struct stat *st);

/* Extended attributes of a message: its properties, and what is known of the delivery (C2). */
int message_getxattr(struct fs *fs, struct node *node, const char *name, char **ret_value, size_t *ret_bytes);
void message_listxattr(struct fs *fs, struct node *node, void (*each)(const char *name, void *arg), void *arg);

#endif
