/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "fs.h"
#include "node.h"
#include "queue.h"

uint64_t node_number(struct fs *fs, const void *object, unsigned view)
{
	return (((uint64_t)(uintptr_t)object) ^ fs->secret) + view;
}

struct node *node_of(struct fs *fs, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? fs->root : (struct node *)(uintptr_t)ino;
}

fuse_ino_t node_ino(struct fs *fs, const struct node *node)
{
	return node == fs->root ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)node;
}

static struct node *node_new(const struct node_ops *ops, struct queue *queue, void *object, unsigned view)
{
	struct node *node = calloc(1, sizeof(*node));
	if (!node)
		return NULL;
	node->ops = ops;
	node->queue = queue ? queue_ref(queue) : NULL;
	node->object = ops->hold ? ops->hold(object) : object;
	node->view = view;
	return node;
}

static void node_free(struct fs *fs, struct node *node)
{
	HASH_DEL(fs->nodes, node);
	if (node->ops->drop)
		node->ops->drop(node->object);
	if (node->queue)
		queue_unref(node->queue);
	free(node);
}

struct node *tree_node(struct fs *fs, const struct node_ops *ops, struct queue *queue, void *object, unsigned view)
{
	struct node *node;
	uint64_t key = node_number(fs, object, view);
	HASH_FIND(hh, fs->nodes, &key, sizeof(key), node);
	if (!node) {
		node = node_new(ops, queue, object, view);
		if (!node)
			return NULL;
		node->key = key;
		HASH_ADD(hh, fs->nodes, key, sizeof(node->key), node);
	}
	node->lookups++;
	return node;
}

void tree_forget(struct fs *fs, struct node *node, uint64_t lookups)
{
	assert(node->lookups >= lookups);
	node->lookups -= lookups;
	if (node->lookups == 0 && node != fs->root)
		node_free(fs, node);
}

void tree_clear(struct fs *fs)
{
	struct node *node, *next;
	HASH_ITER(hh, fs->nodes, node, next)
	{
		node_free(fs, node);
	}
	fs->root = NULL;
}

void node_attr(struct fs *fs, struct node *node, struct stat *st)
{
	*st = (struct stat){
	    .st_ino = node->key,
	    .st_mode = node->ops->mode,
	    .st_nlink = 1,
	    .st_uid = fs->uid,
	    .st_gid = fs->gid,
	    .st_blksize = 4096,
	};
	st->st_mtim.tv_sec = fs->mounted_us / 1000000;
	st->st_mtim.tv_nsec = fs->mounted_us % 1000000 * 1000;
	if (node->ops->attr)
		node->ops->attr(fs, node, st);
	if (st->st_atim.tv_sec == 0)
		st->st_atim = st->st_mtim;
	st->st_ctim = st->st_mtim;
	st->st_blocks = (st->st_size + 511) / 512;
}
