/* SPDX-License-Identifier: MIT */
#include "config_dir.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dir.h"
#include "fs.h"
#include "queue.h"

#define VALUE_MAX 256

static const struct node_ops setting_file_ops;

static bool is_shown(const struct mqfs_setting *setting)
{
	unsigned wanted = MQFS_SETTING_QUEUE | MQFS_SETTING_RUNTIME;
	return (setting->scope & wanted) == wanted;
}

static void *slot_of(struct queue *queue, size_t index)
{
	assert(SLOT_SETTINGS + index < SLOT_PRIORITY);
	return &queue->slots[SLOT_SETTINGS + index];
}

static const struct mqfs_setting *setting_of(const struct node *node)
{
	const char *base = (const char *)&node->queue->slots[SLOT_SETTINGS];
	return mqfs_setting_at((size_t)((const char *)node->object - base) / sizeof(node->queue->slots[0]));
}

static int config_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)tid;
	const struct mqfs_setting *setting;
	for (size_t i = 0; (setting = mqfs_setting_at(i)); i++) {
		if (!is_shown(setting) || strcmp(setting->name, name) != 0)
			continue;
		*ret_node = tree_node(fs, &setting_file_ops, dir->queue, slot_of(dir->queue, i), VIEW_ONLY);
		return *ret_node ? 0 : -ENOMEM;
	}
	return -ENOENT;
}

static void config_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	const struct mqfs_setting *setting;
	for (size_t i = 0; (setting = mqfs_setting_at(i)); i++) {
		if (is_shown(setting))
			listing_add(listing, setting->name, node_number(fs, slot_of(dir->queue, i), VIEW_ONLY),
			            S_IFREG);
	}
}

/* (locked) The value and a newline; its length. */
static int value_text(const struct node *node, char text[VALUE_MAX])
{
	int length = mqfs_settings_get(&node->queue->settings, setting_of(node)->name, text, VALUE_MAX - 1);
	length = length < 0 ? 0 : length > VALUE_MAX - 2 ? VALUE_MAX - 2 : length;
	text[length] = '\n';
	text[length + 1] = '\0';
	return length + 1;
}

static void setting_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	char text[VALUE_MAX];
	st->st_size = value_text(node, text);
}

static void setting_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	(void)fs, (void)node;
	fi->direct_io = 1;
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

/* The value of the moment, also to who has just written another. */
static void setting_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset,
                         struct fuse_file_info *fi)
{
	(void)fi;
	char text[VALUE_MAX];
	fs_lock(fs);
	size_t bytes = (size_t)value_text(node, text);
	fs_unlock(fs);
	reply_slice(req, text, bytes, size, offset);
}

/* One write is one value, wherever it is written: `echo 32 >prefetch` reports EINVAL itself. */
static void setting_write(struct fs *fs, fuse_req_t req, struct node *node, const char *data, size_t size, off_t offset,
                          struct fuse_file_info *fi)
{
	(void)offset, (void)fi;
	char value[VALUE_MAX];
	int result = -EINVAL;
	if (size < sizeof(value) && !memchr(data, '\0', size)) {
		memcpy(value, data, size);
		value[size] = '\0';
		result = queue_configure(fs, node->queue, setting_of(node)->name, value);
	}
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		fuse_reply_write(req, size);
}

/* `>prefetch` truncates first; that alone changes nothing. */
static void setting_setattr(struct fs *fs, fuse_req_t req, struct node *node, const struct stat *st, int to_set)
{
	(void)st;
	struct stat attr;
	if (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	fs_lock(fs);
	node_attr(fs, node, &attr);
	fs_unlock(fs);
	fuse_reply_attr(req, &attr, 0);
}

static const struct node_ops setting_file_ops = {
    .mode = S_IFREG | 0600,
    .attr = setting_attr,
    .open = setting_open,
    .read = setting_read,
    .write = setting_write,
    .setattr = setting_setattr,
};

const struct node_ops config_dir_ops = {
    .mode = S_IFDIR | 0700,
    .entry_timeout = 1.0,
    .attr_timeout = 1.0,
    .child = config_child,
    .list = config_list,
};
