/* SPDX-License-Identifier: MIT */
#ifndef FS_NEW_DIR_H
#define FS_NEW_DIR_H

#include "node.h"

extern const struct node_ops new_dir_ops; /* object: the slot of new/ or of new/@N/ */

struct draft;
struct queue;

/* The priority that publishing through this directory means: N of new/@N/, -1 in new/. */
int new_dir_priority(const struct node *dir);

/* (locked) The open for writing of this draft is answered ESTALE: the thread's next look-up of the name finds nothing.
 */
void new_dir_note_reopen(struct fs *fs, pid_t tid, const struct draft *draft);

#endif
