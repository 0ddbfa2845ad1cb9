/* SPDX-License-Identifier: MIT */
#include "ops.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include "fs.h"

#define XATTR_PREFIX "user.mqfs."

static struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	/* Late writes by the kernel would have no writer; one that truncates at open is one request less. */
	conn->want &= ~(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	conn->want |= conn->capable & (FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_PARALLEL_DIROPS);
}

/* --- names --- */

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, parent), *node;
	if (strlen(name) > NAME_MAX) {
		fuse_reply_err(req, ENAMETOOLONG);
		return;
	}
	if (dir->ops->lookup) {
		dir->ops->lookup(fs, req, dir, name);
		return;
	}
	fs_lock(fs);
	int result = dir->ops->child ? dir->ops->child(fs, dir, name, fuse_req_ctx(req)->pid, &node) : -ENOTDIR;
	fs_unlock(fs);
	if (result == 0)
		reply_entry(fs, req, node);
	else
		fuse_reply_err(req, -result);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
	struct fs *fs = fs_of(req);
	fs_lock(fs);
	tree_forget(fs, node_of(fs, ino), lookups);
	fs_unlock(fs);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct fs *fs = fs_of(req);
	fs_lock(fs);
	for (size_t i = 0; i < count; i++)
		tree_forget(fs, node_of(fs, forgets[i].ino), forgets[i].nlookup);
	fs_unlock(fs);
	fuse_reply_none(req);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, parent);
	if (strlen(name) > NAME_MAX)
		fuse_reply_err(req, ENAMETOOLONG);
	else if (dir->ops->create)
		dir->ops->create(fs, req, dir, name, mode, fi);
	else
		fuse_reply_err(req, EPERM);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	(void)parent, (void)name, (void)mode, (void)rdev;
	fuse_reply_err(req, EPERM);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)mode;
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, parent);
	if (strlen(name) > NAME_MAX)
		fuse_reply_err(req, ENAMETOOLONG);
	else if (dir->ops->mkdir)
		dir->ops->mkdir(fs, req, dir, name);
	else
		fuse_reply_err(req, EPERM);
}

static void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
	(void)link, (void)parent, (void)name;
	fuse_reply_err(req, EPERM);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	(void)ino, (void)parent, (void)name;
	fuse_reply_err(req, EPERM);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, parent);
	if (dir->ops->unlink)
		dir->ops->unlink(fs, req, dir, name);
	else
		fuse_reply_err(req, EPERM);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, parent);
	if (dir->ops->rmdir)
		dir->ops->rmdir(fs, req, dir, name);
	else
		fuse_reply_err(req, EPERM);
}

/* Never EXDEV: mv would copy and delete. */
static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to_parent, const char *to_name,
                      unsigned flags)
{
	struct fs *fs = fs_of(req);
	struct rename rename = {node_of(fs, parent), name, node_of(fs, to_parent), to_name, flags};
	if (strlen(to_name) > NAME_MAX)
		fuse_reply_err(req, ENAMETOOLONG);
	else if (flags & ~(unsigned)RENAME_NOREPLACE)
		fuse_reply_err(req, EINVAL);
	else if (rename.from_dir->ops->rename)
		rename.from_dir->ops->rename(fs, req, &rename);
	else
		fuse_reply_err(req, EPERM);
}

/* --- attributes --- */

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)fi;
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	struct stat st;
	fs_lock(fs);
	node_attr(fs, node, &st);
	fs_unlock(fs);
	fuse_reply_attr(req, &st, node->ops->attr_timeout);
}

/*
 * What has no attributes of its own takes what changes nothing, and times, which mean nothing here: tar sets both on
 * the directory it unpacks into.
 */
static void keep_attr(struct fs *fs, fuse_req_t req, struct node *node, const struct stat *wanted, int to_set)
{
	struct stat st;
	fs_lock(fs);
	node_attr(fs, node, &st);
	fs_unlock(fs);
	bool same = (!(to_set & FUSE_SET_ATTR_MODE) || (wanted->st_mode & 07777) == (st.st_mode & 07777)) &&
	            (!(to_set & FUSE_SET_ATTR_UID) || wanted->st_uid == st.st_uid) &&
	            (!(to_set & FUSE_SET_ATTR_GID) || wanted->st_gid == st.st_gid) && !(to_set & FUSE_SET_ATTR_SIZE);
	if (same)
		fuse_reply_attr(req, &st, node->ops->attr_timeout);
	else
		fuse_reply_err(req, EPERM);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
	(void)fi;
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	if (node->ops->setattr)
		node->ops->setattr(fs, req, node, st, to_set);
	else
		keep_attr(fs, req, node, st, to_set);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	(void)ino;
	/* Room enough: what a queue can take is the broker's to say, and df answers without it. */
	struct statvfs st = {
	    .f_bsize = 4096,
	    .f_frsize = 4096,
	    .f_blocks = 1 << 30,
	    .f_bfree = 1 << 30,
	    .f_bavail = 1 << 30,
	    .f_files = 1 << 20,
	    .f_ffree = 1 << 20,
	    .f_favail = 1 << 20,
	    .f_namemax = NAME_MAX,
	};
	fuse_reply_statfs(req, &st);
}

/* --- directories --- */

struct dir_handle {
	/* guarded by fs->lock */
	struct listing listing;
	bool read; /* a READDIR from 0 comes again: rewinddir(3) wants a fresh listing */
};

/* (locked) */
static void fill_listing(struct fs *fs, struct node *dir, struct listing *listing)
{
	listing_clear(listing);
	listing_add(listing, ".", dir->key, S_IFDIR);
	listing_add(listing, "..", dir->key, S_IFDIR);
	dir->ops->list(fs, dir, listing);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	struct dir_handle *handle = (struct dir_handle *)(uintptr_t)fi->fh;
	listing_clear(&handle->listing);
	free(handle);
	fuse_reply_err(req, 0);
}

void ops_reply_opendir(struct fs *fs, fuse_req_t req, struct node *dir, const struct fuse_file_info *fi)
{
	struct dir_handle *handle = calloc(1, sizeof(*handle));
	struct fuse_file_info reply = *fi;
	if (!handle) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fs_lock(fs);
	fill_listing(fs, dir, &handle->listing);
	fs_unlock(fs);
	reply.fh = (uintptr_t)handle;
	if (fuse_reply_open(req, &reply) != 0) {
		listing_clear(&handle->listing);
		free(handle);
	}
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, ino);
	if (!dir->ops->list)
		fuse_reply_err(req, ENOTDIR);
	else if (dir->ops->opendir)
		dir->ops->opendir(fs, req, dir, fi);
	else
		ops_reply_opendir(fs, req, dir, fi);
}

/* One entry of READDIRPLUS: a look-up each, where that needs no waiting; else the name alone. (locked) */
static size_t add_plus(struct fs *fs, fuse_req_t req, struct node *dir, const struct listing_entry *entry, char *buffer,
                       size_t room, off_t next)
{
	struct fuse_entry_param param = {.attr = {.st_ino = entry->number, .st_mode = entry->type}};
	struct node *node = NULL;
	if (entry->name[0] == '.' && (!entry->name[1] || strcmp(entry->name, "..") == 0))
		param.attr.st_mode = S_IFDIR;
	else if (dir->ops->child(fs, dir, entry->name, 0, &node) == 0) {
		param.ino = node_ino(fs, node);
		param.entry_timeout = node->ops->entry_timeout;
		param.attr_timeout = node->ops->attr_timeout;
		node_attr(fs, node, &param.attr);
	}
	size_t used = fuse_add_direntry_plus(req, buffer, room, entry->name, &param, next);
	if (used > room && node)
		tree_forget(fs, node, 1);
	return used;
}

static size_t add_plain(fuse_req_t req, const struct listing_entry *entry, char *buffer, size_t room, off_t next)
{
	struct stat st = {.st_ino = entry->number, .st_mode = entry->type};
	return fuse_add_direntry(req, buffer, room, entry->name, &st, next);
}

static void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi,
                           bool plus)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, ino);
	struct dir_handle *handle = (struct dir_handle *)(uintptr_t)fi->fh;
	char *buffer = malloc(size);
	size_t used = 0;
	if (!buffer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fs_lock(fs);
	if (offset == 0 && handle->read)
		fill_listing(fs, dir, &handle->listing);
	handle->read = true;
	for (size_t i = (size_t)offset; i < handle->listing.count; i++) {
		const struct listing_entry *entry = &handle->listing.entries[i];
		size_t room = size - used;
		size_t bytes = plus ? add_plus(fs, req, dir, entry, buffer + used, room, (off_t)i + 1)
		                    : add_plain(req, entry, buffer + used, room, (off_t)i + 1);
		if (bytes > room)
			break;
		used += bytes;
	}
	fs_unlock(fs);
	fuse_reply_buf(req, buffer, used);
	free(buffer);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	read_directory(req, ino, size, offset, fi, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	read_directory(req, ino, size, offset, fi, true);
}

/* --- files --- */

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	bool writes = (fi->flags & O_ACCMODE) != O_RDONLY;
	/* What takes no writes may still be opened for them by `touch`, where attributes can be set. */
	if (!node->ops->open)
		fuse_reply_err(req, EPERM);
	else if (writes && !node->ops->write && !node->ops->setattr)
		fuse_reply_err(req, EACCES);
	else
		node->ops->open(fs, req, node, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	node->ops->read(fs, req, node, size, offset, fi);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	if (node->ops->write)
		node->ops->write(fs, req, node, data, size, offset, fi);
	else
		fuse_reply_err(req, EPERM);
}

/* Never ENOSYS: the kernel would take it for the mount's life. */
static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	if (node->ops->flush)
		node->ops->flush(fs, req, node, fi);
	else
		fuse_reply_err(req, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	if (node->ops->release)
		node->ops->release(fs, node, fi);
	fuse_reply_err(req, 0);
}

/* A draft is in memory until it is complete; there is nothing to bring to a disk before. */
static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino, (void)datasync, (void)fi;
	fuse_reply_err(req, 0);
}

static void op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *handle)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	if (node->ops->poll) {
		node->ops->poll(fs, req, node, fi, handle);
		return;
	}
	if (handle)
		fuse_pollhandle_destroy(handle);
	fuse_reply_poll(req, POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM);
}

/* --- extended attributes --- */

static const char *own_name(const char *name)
{
	size_t prefix = strlen(XATTR_PREFIX);
	return strncmp(name, XATTR_PREFIX, prefix) == 0 ? name + prefix : NULL;
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	const char *own = own_name(name);
	int result = !own                   ? -ENOTSUP
	             : !node->ops->setxattr ? -EPERM
	                                    : node->ops->setxattr(fs, node, own, value, size, flags);
	fuse_reply_err(req, -result);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
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

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
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

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
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

const struct fuse_lowlevel_ops ops_table = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .create = op_create,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .flush = op_flush,
    .release = op_release,
    .fsync = op_fsync,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .readdirplus = op_readdirplus,
    .releasedir = op_releasedir,
    .statfs = op_statfs,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .removexattr = op_removexattr,
    .poll = op_poll,
};
