/* SPDX-License-Identifier: MIT */
#ifndef FS_NODE_H
#define FS_NODE_H

#include "fuse.h"

#include <stdbool.h>
#include <uthash.h>

/*
 * Inodes. A node shows one object (a queue's slot, a draft, a delivery) in one view; the same pair
 * gives the same node as long as the kernel remembers it. Its number comes from the object's address and
 * the view, so that it is unique while the object lives, also before the node exists.
 *
 * Each kind of node is one struct node_ops and has a file of its own. Functions marked (locked) run
 * under fs->lock and must not block, reply or call out; all others run without it, must reply exactly once,
 * and may park the request (reply.h). NULL means that the kind does not do that (EPERM, or a default).
 */

struct fs;
struct node;
struct queue;
struct listing;
struct rename;

/*
 * An operation that waits for what its node shows to come from the disk. run is called with result 0, or why it can't
 * go on; it answers req, and does not free fetch, which is freed after it, or instead of it when req has been answered
 * (its deadline, its caller's end).
 */
struct fetch {
	void (*run)(struct fs *fs, fuse_req_t req, struct fetch *fetch, int result);
	/* of whoever fetches */
	struct fs *fs;
	void *object;
	uint64_t ticket;
	bool holding; /* a directory, all the while (reply.h) */
};

struct node_ops {
	mode_t mode;
	/* How long the kernel may believe a name, in seconds. 0 for names whose meaning changes or differs by caller.
	 */
	double entry_timeout;
	/* How long it may believe the attributes. */
	double attr_timeout;

	/* (locked) Fills size, times, and mode where it differs. */
	void (*attr)(struct fs *fs, struct node *node, struct stat *st);
	/* (locked) The object's reference. */
	void *(*hold)(void *object);
	void (*drop)(void *object);

	/* Directories. child (locked): 0 with *ret_node held by tree_node(), or -errno. */
	int (*child)(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node);
	void (*list)(struct fs *fs, struct node *dir, struct listing *listing);            /* (locked) */
	void (*lookup)(struct fs *fs, fuse_req_t req, struct node *dir, const char *name); /* default: child */
	void (*opendir)(struct fs *fs, fuse_req_t req, struct node *dir,
	                struct fuse_file_info *fi); /* default: at once */
	void (*create)(struct fs *fs, fuse_req_t req, struct node *dir, const char *name, mode_t mode,
	               struct fuse_file_info *fi);
	void (*mkdir)(struct fs *fs, fuse_req_t req, struct node *dir, const char *name);
	void (*unlink)(struct fs *fs, fuse_req_t req, struct node *dir, const char *name);
	void (*rmdir)(struct fs *fs, fuse_req_t req, struct node *dir, const char *name);
	void (*rename)(struct fs *fs, fuse_req_t req, const struct rename *rename); /* of the source directory */

	/* Files. */
	void (*open)(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi);
	void (*read)(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset,
	             struct fuse_file_info *fi);
	void (*write)(struct fs *fs, fuse_req_t req, struct node *node, const char *data, size_t size, off_t offset,
	              struct fuse_file_info *fi);
	void (*flush)(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi);
	void (*release)(struct fs *fs, struct node *node, struct fuse_file_info *fi); /* ops.c replies */
	void (*poll)(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi,
	             struct fuse_pollhandle *handle);
	void (*setattr)(struct fs *fs, fuse_req_t req, struct node *node, const struct stat *st, int to_set);

	void (*fsync)(struct fs *fs, fuse_req_t req, struct node *node); /* default: done */

	/* Is what is told of it on the disk only? Then fetch brings it into memory (see struct fetch) before the
	 * functions below are called. */
	bool (*away)(struct fs *fs, struct node *node);
	void (*fetch)(struct fs *fs, fuse_req_t req, struct node *node, struct fetch *fetch);

	/* Extended attributes; name is without the "user.mqfs." prefix. Synchronous: 0 or -errno. */
	int (*getxattr)(struct fs *fs, struct node *node, const char *name, char **ret_value, size_t *ret_bytes);
	int (*setxattr)(struct fs *fs, struct node *node, const char *name, const char *value, size_t bytes);
	int (*removexattr)(struct fs *fs, struct node *node, const char *name);
	void (*listxattr)(struct fs *fs, struct node *node, void (*each)(const char *name, void *arg), void *arg);
};

struct rename {
	struct node *from_dir;
	const char *from;
	struct node *to_dir;
	const char *to;
	unsigned flags; /* RENAME_NOREPLACE has been dealt with by the kernel; RENAME_EXCHANGE is refused before */
};

struct node {
	/* constant */
	uint64_t key;
	const struct node_ops *ops;
	struct queue *queue; /* a reference; NULL above the queues */
	void *object;        /* a reference through ops->hold */
	unsigned view;
	/* guarded by fs->lock */
	uint64_t lookups; /* the kernel's, and those of replies under way */
	unsigned hidden;  /* directories of dead messages: files unlinked ahead of rmdir, as rm -r does */
	UT_hash_handle hh;
};

/* The views of one object; at most 16, the alignment of what malloc gives. */
enum view {
	VIEW_ONLY = 0,
	VIEW_PENDING = 0,
	VIEW_CLAIMED,
	VIEW_ERROR,
	VIEW_PEEK,
	VIEW_FAILED,
	VIEW_BODY,
	VIEW_META,
	VIEW_REASON,
	VIEWS = 16
};

/* (locked) The node of object in view, made when there is none, with one more look-up counted: whoever does not hand
 * it to the kernel calls tree_forget. NULL: out of memory. */
struct node *tree_node(struct fs *fs, const struct node_ops *ops, struct queue *queue, void *object, unsigned view);
/* (locked) */
void tree_forget(struct fs *fs, struct node *node, uint64_t lookups);
/* Frees every node; after the last request. */
void tree_clear(struct fs *fs);

struct node *node_of(struct fs *fs, fuse_ino_t ino);
fuse_ino_t node_ino(struct fs *fs, const struct node *node);
uint64_t node_number(struct fs *fs, const void *object, unsigned view); /* st_ino */

/* (locked) */
void node_attr(struct fs *fs, struct node *node, struct stat *st);

#endif
