/* SPDX-License-Identifier: MIT */
#include "xattr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "fs.h"

#define XATTR_PREFIX "user.mqfs."

static const char *own_name(const char *name)
{
	size_t prefix = strlen(XATTR_PREFIX);
	return strncmp(name, XATTR_PREFIX, prefix) == 0 ? name + prefix : NULL;
}

/* One request, and what it needs when it waits for its node's content. */
struct xattr_op {
	struct fetch fetch;
	void (*run)(struct fs *fs, fuse_req_t req, struct node *node, const struct xattr_op *op);
	struct node *node; /* the kernel keeps it while its request is unanswered */
	const char *name;  /* without the prefix; NULL: not one of ours */
	const char *value;
	size_t size; /* of value, or the room for the answer */
	int flags;
	char text[]; /* name and value, when it waits */
};

static void op_fetched(struct fs *fs, fuse_req_t req, struct fetch *fetch, int result)
{
	struct xattr_op *op = (struct xattr_op *)fetch;
	if (result < 0)
		fuse_reply_err(req, result == -ENOENT ? ENODATA : -result);
	else
		op->run(fs, req, op->node, op);
}

static void op_fetch(struct fs *fs, fuse_req_t req, const struct xattr_op *op)
{
	size_t name_bytes = op->name ? strlen(op->name) + 1 : 0, value_bytes = op->value ? op->size : 0;
	struct xattr_op *waited = malloc(sizeof(*waited) + name_bytes + value_bytes);
	if (!waited) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	*waited = *op;
	waited->fetch.run = op_fetched;
	if (op->name)
		waited->name = memcpy(waited->text, op->name, name_bytes);
	if (op->value)
		waited->value = memcpy(waited->text + name_bytes, op->value, value_bytes);
	op->node->ops->fetch(fs, req, op->node, &waited->fetch);
}

static void run(fuse_req_t req, const struct xattr_op *op)
{
	struct fs *fs = fs_of(req);
	if (op->node->ops->away && op->node->ops->away(fs, op->node))
		op_fetch(fs, req, op);
	else
		op->run(fs, req, op->node, op);
}

/* XATTR_CREATE and XATTR_REPLACE: the kernel leaves them to us. */
static int check_flags(struct fs *fs, struct node *node, const struct xattr_op *op)
{
	char *value = NULL;
	size_t bytes = 0;
	if (!(op->flags & (XATTR_CREATE | XATTR_REPLACE)))
		return 0;
	bool exists = node->ops->getxattr && node->ops->getxattr(fs, node, op->name, &value, &bytes) == 0;
	free(value);
	if (exists)
		return op->flags & XATTR_CREATE ? -EEXIST : 0;
	return op->flags & XATTR_REPLACE ? -ENODATA : 0;
}

static void run_set(struct fs *fs, fuse_req_t req, struct node *node, const struct xattr_op *op)
{
	int result = check_flags(fs, node, op);
	if (result == 0)
		result = node->ops->setxattr(fs, node, op->name, op->value, op->size);
	fuse_reply_err(req, -result);
}

void xattr_set(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct node *node = node_of(fs_of(req), ino);
	const char *own = own_name(name);
	struct xattr_op op = {.run = run_set, .node = node, .name = own, .value = value, .size = size, .flags = flags};
	if (!own || !node->ops->setxattr)
		fuse_reply_err(req, own ? EPERM : ENOTSUP);
	else
		run(req, &op);
}

static void run_get(struct fs *fs, fuse_req_t req, struct node *node, const struct xattr_op *op)
{
	char *value = NULL;
	size_t bytes = 0;
	int result = node->ops->getxattr(fs, node, op->name, &value, &bytes);
	if (result < 0)
		fuse_reply_err(req, -result);
	else if (op->size == 0)
		fuse_reply_xattr(req, bytes);
	else if (bytes > op->size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, bytes);
	free(value);
}

void xattr_get(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct node *node = node_of(fs_of(req), ino);
	const char *own = own_name(name);
	struct xattr_op op = {.run = run_get, .node = node, .name = own, .size = size};
	if (!own || !node->ops->getxattr)
		fuse_reply_err(req, ENODATA);
	else
		run(req, &op);
}

static void run_remove(struct fs *fs, fuse_req_t req, struct node *node, const struct xattr_op *op)
{
	fuse_reply_err(req, -node->ops->removexattr(fs, node, op->name));
}

void xattr_remove(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct node *node = node_of(fs_of(req), ino);
	const char *own = own_name(name);
	struct xattr_op op = {.run = run_remove, .node = node, .name = own};
	if (!own || !node->ops->removexattr)
		fuse_reply_err(req, ENODATA);
	else
		run(req, &op);
}

struct names {
	char *text;
	size_t bytes, capacity;
};

static void add_name(const char *name, void *arg)
{
	struct names *names = arg;
	size_t bytes = strlen(XATTR_PREFIX) + strlen(name) + 1;
	if (names->bytes + bytes > names->capacity) {
		size_t capacity = 2 * (names->bytes + bytes);
		char *text = realloc(names->text, capacity);
		if (!text)
			return;
		names->text = text;
		names->capacity = capacity;
	}
	strcpy(names->text + names->bytes, XATTR_PREFIX);
	strcat(names->text + names->bytes, name);
	names->bytes += bytes;
}

static void run_list(struct fs *fs, fuse_req_t req, struct node *node, const struct xattr_op *op)
{
	struct names names = {0};
	if (node->ops->listxattr)
		node->ops->listxattr(fs, node, add_name, &names);
	if (op->size == 0)
		fuse_reply_xattr(req, names.bytes);
	else if (names.bytes > op->size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, names.text, names.bytes);
	free(names.text);
}

void xattr_list(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct xattr_op op = {.run = run_list, .node = node_of(fs_of(req), ino), .size = size};
	run(req, &op);
}
