/* SPDX-License-Identifier: MIT */
#ifndef FS_MOVED_H
#define FS_MOVED_H

#include <mqfs/name.h>

#include "node.h"

/*
 * Names that were just moved to. `mv claimed/X retry/` ends with a message that has another name, or that is somewhere
 * else by now; but mv, given several files, looks at retry/X once more and fails when it isn't there. So for
 * about 2 s the name answers stat() and attribute changes, unlisted, as a published draft's does (P5). Removing or
 * renaming it does nothing to any message, and writing it makes a new one.
 */
struct moved;

extern const struct node_ops moved_ops; /* object: struct moved */

/* The name exists in dir from now on, as what type says: a file or a directory. No lock. */
void moved_add(struct fs *fs, struct queue *queue, const void *dir_object, const char *name, mode_t type);

/* (locked) A node for the name, as node_ops.child; -ENOENT. */
int moved_child(struct fs *fs, const struct node *dir, const char *name, struct node **ret_node);
/* (locked) Was it a file that was moved to the name (a directory)? */
bool moved_was_file(const struct node *dir, const char *name);
/* (locked) Forgets the name; false: there is none. */
bool moved_remove(const struct node *dir, const char *name);

/* (locked) Forgets those whose time is over; returns when the next is due. */
int64_t moved_tick(struct queue *queue, int64_t now_ms);
/* (locked) Forgets all. */
void moved_clear(struct queue *queue);

#endif
