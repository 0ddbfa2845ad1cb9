/* SPDX-License-Identifier: MIT */
#include "moved.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "housekeeping.h"
#include "queue.h"

#define MOVED_MS 2000
#define MOVED_MAX 512 /* of one queue: more, and the oldest goes early */

struct moved {
	/* constant */
	atomic_uint references;
	const void *dir; /* compared only */
	mode_t type;
	int64_t until_ms;
	int64_t since_us;
	struct moved *prev, *next; /* queue->moved, oldest first; guarded by fs->lock */
	char name[];
};

static void *hold(void *object)
{
	struct moved *moved = object;
	atomic_fetch_add(&moved->references, 1);
	return moved;
}

static void drop(void *object)
{
	struct moved *moved = object;
	if (atomic_fetch_sub(&moved->references, 1) == 1)
		free(moved);
}

static void forget(struct queue *queue, struct moved *moved)
{
	DL_DELETE(queue->moved, moved);
	queue->moved_count--;
	drop(moved);
}

static struct moved *find(struct queue *queue, const void *dir, const char *name)
{
	struct moved *moved;
	DL_FOREACH(queue->moved, moved)
	{
		if (moved->dir == dir && strcmp(moved->name, name) == 0)
			return moved;
	}
	return NULL;
}

void moved_add(struct fs *fs, struct queue *queue, const void *dir, const char *name, mode_t type)
{
	size_t bytes = strlen(name) + 1;
	struct moved *moved = malloc(sizeof(*moved) + bytes);
	if (!moved)
		return;
	*moved = (struct moved){
	    .dir = dir,
	    .type = type,
	    .until_ms = mqfs_clock_monotonic_ms() + MOVED_MS,
	    .since_us = mqfs_clock_realtime_us(),
	};
	atomic_init(&moved->references, 1);
	memcpy(moved->name, name, bytes);

	fs_lock(fs);
	if (queue->moved_count == MOVED_MAX)
		forget(queue, queue->moved);
	DL_APPEND(queue->moved, moved);
	queue->moved_count++;
	fs_unlock(fs);
	housekeeping_wake(fs, moved->until_ms);
}

int moved_child(struct fs *fs, const struct node *dir, const char *name, struct node **ret_node)
{
	struct moved *moved = find(dir->queue, dir->object, name);
	if (!moved)
		return -ENOENT;
	*ret_node = tree_node(fs, &moved_ops, dir->queue, moved, VIEW_ONLY);
	return *ret_node ? 0 : -ENOMEM;
}

bool moved_was_file(const struct node *dir, const char *name)
{
	const struct moved *moved = find(dir->queue, dir->object, name);
	return moved && S_ISREG(moved->type);
}

bool moved_remove(const struct node *dir, const char *name)
{
	struct moved *moved = find(dir->queue, dir->object, name);
	if (moved)
		forget(dir->queue, moved);
	return moved;
}

int64_t moved_tick(struct queue *queue, int64_t now_ms)
{
	while (queue->moved && queue->moved->until_ms <= now_ms)
		forget(queue, queue->moved);
	return queue->moved ? queue->moved->until_ms : MQFS_NEVER;
}

void moved_clear(struct queue *queue)
{
	while (queue->moved)
		forget(queue, queue->moved);
}

static void moved_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	const struct moved *moved = node->object;
	st->st_mode = moved->type | (S_ISDIR(moved->type) ? 0700 : 0600);
	st->st_mtim.tv_sec = moved->since_us / 1000000;
	st->st_mtim.tv_nsec = moved->since_us % 1000000 * 1000;
}

/* Written: the name is free, and the kernel, told ESTALE, looks it up once more and finds nothing. */
static void moved_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct moved *moved = node->object;
	if ((fi->flags & O_ACCMODE) == O_RDONLY) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	fs_lock(fs);
	if (find(node->queue, moved->dir, moved->name) == moved)
		forget(node->queue, moved);
	fs_unlock(fs);
	fuse_reply_err(req, ESTALE);
}

/* Accepted, and of no effect. */
static void moved_setattr(struct fs *fs, fuse_req_t req, struct node *node, const struct stat *st, int to_set)
{
	(void)st, (void)to_set;
	struct stat attr;
	fs_lock(fs);
	node_attr(fs, node, &attr);
	fs_unlock(fs);
	fuse_reply_attr(req, &attr, 0);
}

const struct node_ops moved_ops = {
    .mode = S_IFREG | 0600,
    .attr = moved_attr,
    .hold = hold,
    .drop = drop,
    .open = moved_open,
    .setattr = moved_setattr,
};
