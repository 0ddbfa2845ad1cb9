/* SPDX-License-Identifier: MIT */
#include "peek_dir.h"

#include <errno.h>

#include "dir.h"
#include "fs.h"
#include "message_file.h"
#include "pending_dir.h"
#include "queue.h"

static const struct node_ops peek_message_ops;

static int peek_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)tid;
	struct mqfs_delivery *delivery = mqfs_consumer_find(dir->queue->consumer, name, NULL);
	if (!delivery)
		return -ENOENT;
	*ret_node = tree_node(fs, &peek_message_ops, dir->queue, delivery, VIEW_PEEK);
	mqfs_delivery_unref(delivery);
	return *ret_node ? 0 : -ENOMEM;
}

static void peek_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	pending_add_to_listing(fs, dir->queue, MQFS_DELIVERY_PENDING, VIEW_PEEK, S_IFDIR, listing);
	pending_add_to_listing(fs, dir->queue, MQFS_DELIVERY_CLAIMED, VIEW_PEEK, S_IFDIR, listing);
}

static int peek_message_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)tid;
	return message_child(fs, dir, name, false, ret_node);
}

static void peek_message_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	message_list(fs, dir, false, listing);
}

static void peek_message_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	message_times(node->object, st);
}

static const struct node_ops peek_message_ops = {
    .mode = S_IFDIR | 0500,
    .attr_timeout = 1.0,
    .attr = peek_message_attr,
    .hold = message_hold,
    .drop = message_drop,
    .child = peek_message_child,
    .list = peek_message_list,
};

const struct node_ops peek_dir_ops = {
    .mode = S_IFDIR | 0500,
    .entry_timeout = 1.0,
    .attr_timeout = 1.0,
    .child = peek_child,
    .list = peek_list,
};
