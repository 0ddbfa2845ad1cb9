/* SPDX-License-Identifier: MIT */
#include "error_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failure.h>

#include "fs.h"
#include "message_file.h"
#include "opened.h"
#include "queue.h"

/* What was written through one open; a tail of it. */
struct error_handle {
	/* guarded by fs->lock */
	size_t bytes;
	char tail[MQFS_REASON_MAX + 1];
};

static void copy_error(struct mqfs_delivery *delivery, void *arg)
{
	struct error_handle *handle = arg;
	handle->bytes = delivery->error ? strlen(delivery->error) : 0;
	if (handle->bytes > MQFS_REASON_MAX)
		handle->bytes = MQFS_REASON_MAX;
	memcpy(handle->tail, delivery->error ? delivery->error : "", handle->bytes);
}

static void measure_error(struct mqfs_delivery *delivery, void *arg)
{
	*(size_t *)arg = delivery->error ? strlen(delivery->error) : 0;
}

static void error_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	size_t bytes = 0;
	mqfs_consumer_with(node->queue->consumer, node->object, measure_error, &bytes);
	st->st_size = (off_t)bytes;
}

static void drop(struct fs *fs, void *handle)
{
	(void)fs;
	free(handle);
}

static void error_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct error_handle *handle = calloc(1, sizeof(*handle));
	if (!handle) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (!(fi->flags & O_TRUNC))
		mqfs_consumer_with(node->queue->consumer, node->object, copy_error, handle);
	else
		mqfs_consumer_set_error(node->queue->consumer, node->object, "", 0);
	fi->direct_io = 1;
	if (opened_reply(fs, req, fi, handle, drop) != 0)
		error_file_ops.release(fs, node, fi);
}

static void error_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
	(void)node;
	const struct error_handle *handle = (struct error_handle *)(uintptr_t)fi->fh;
	struct error_handle copy;
	fs_lock(fs);
	copy = *handle;
	fs_unlock(fs);
	reply_slice(req, copy.tail, copy.bytes, size, offset);
}

/* Text comes in order, whatever the offset says: a log is appended to. */
static void append(struct error_handle *handle, const char *data, size_t size)
{
	if (size >= MQFS_REASON_MAX) {
		memcpy(handle->tail, data + size - MQFS_REASON_MAX, MQFS_REASON_MAX);
		handle->bytes = MQFS_REASON_MAX;
		return;
	}
	size_t surplus = handle->bytes + size > MQFS_REASON_MAX ? handle->bytes + size - MQFS_REASON_MAX : 0;
	memmove(handle->tail, handle->tail + surplus, handle->bytes - surplus);
	memcpy(handle->tail + handle->bytes - surplus, data, size);
	handle->bytes += size - surplus;
}

static void error_write(struct fs *fs, fuse_req_t req, struct node *node, const char *data, size_t size, off_t offset,
                        struct fuse_file_info *fi)
{
	(void)offset;
	struct error_handle *handle = (struct error_handle *)(uintptr_t)fi->fh;
	fs_lock(fs);
	append(handle, data, size);
	int result = mqfs_consumer_set_error(node->queue->consumer, node->object, handle->tail, handle->bytes);
	fs_unlock(fs);
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		fuse_reply_write(req, size);
}

static void error_release(struct fs *fs, struct node *node, struct fuse_file_info *fi)
{
	(void)fs, (void)node;
	free((struct error_handle *)(uintptr_t)fi->fh);
}

static void error_setattr(struct fs *fs, fuse_req_t req, struct node *node, const struct stat *st, int to_set)
{
	struct stat attr;
	if ((to_set & FUSE_SET_ATTR_SIZE) && st->st_size == 0)
		mqfs_consumer_set_error(node->queue->consumer, node->object, "", 0);
	fs_lock(fs);
	node_attr(fs, node, &attr);
	fs_unlock(fs);
	fuse_reply_attr(req, &attr, 0);
}

const struct node_ops error_file_ops = {
    .mode = S_IFREG | 0600,
    .attr = error_attr,
    .hold = message_hold,
    .drop = message_drop,
    .open = error_open,
    .read = error_read,
    .write = error_write,
    .release = error_release,
    .setattr = error_setattr,
};
