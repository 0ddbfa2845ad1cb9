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

/* XATTR_CREATE and XATTR_REPLACE: the kernel leaves them to us. */
static int check_flags(struct fs *fs, struct node *node, const char *own, int flags)
{
	char *value = NULL;
	size_t bytes = 0;
	if (!(flags & (XATTR_CREATE | XATTR_REPLACE)))
		return 0;
	bool exists = node->ops->getxattr && node->ops->getxattr(fs, node, own, &value, &bytes) == 0;
	free(value);
	if (exists)
		return flags & XATTR_CREATE ? -EEXIST : 0;
	return flags & XATTR_REPLACE ? -ENODATA : 0;
}

void xattr_set(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	const char *own = own_name(name);
	int result = !own ? -ENOTSUP : !node->ops->setxattr ? -EPERM : check_flags(fs, node, own, flags);
	if (result == 0)
		result = node->ops->setxattr(fs, node, own, value, size);
	fuse_reply_err(req, -result);
}

void xattr_get(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	const char *own = own_name(name);
	char *value = NULL;
	size_t bytes = 0;
	int result = own && node->ops->getxattr ? node->ops->getxattr(fs, node, own, &value, &bytes) : -ENODATA;
	if (result < 0)
		fuse_reply_err(req, -result);
	else if (size == 0)
		fuse_reply_xattr(req, bytes);
	else if (bytes > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, bytes);
	free(value);
}

void xattr_remove(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	const char *own = own_name(name);
	int result = own && node->ops->removexattr ? node->ops->removexattr(fs, node, own) : -ENODATA;
	fuse_reply_err(req, -result);
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

void xattr_list(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	struct names names = {0};
	if (node->ops->listxattr)
		node->ops->listxattr(fs, node, add_name, &names);
	if (size == 0)
		fuse_reply_xattr(req, names.bytes);
	else if (names.bytes > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, names.text, names.bytes);
	free(names.text);
}
