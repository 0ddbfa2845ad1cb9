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

#include "dir.h"
#include "fs.h"
#include "opened.h"
#include "reply.h"
#include "xattr.h"

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	/* Late writes by the kernel would have no writer; one that truncates at open is one request less. */
	conn->want &= ~(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	conn->want |= conn->capable & (FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_PARALLEL_DIROPS);
}

/* --- names --- */

/* The kernel keeps a directory locked until these are answered. */
#define HOLDING(call)                                                                                                  \
	do {                                                                                                           \
		park_holding(true);                                                                                    \
		call;                                                                                                  \
		park_holding(false);                                                                                   \
	} while (0)

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, parent), *node;
	if (strlen(name) > NAME_MAX) {
		fuse_reply_err(req, ENAMETOOLONG);
		return;
	}
	if (dir->ops->lookup) {
		HOLDING(dir->ops->lookup(fs, req, dir, name));
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
		HOLDING(dir->ops->create(fs, req, dir, name, mode, fi));
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
		HOLDING(dir->ops->mkdir(fs, req, dir, name));
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
		HOLDING(dir->ops->unlink(fs, req, dir, name));
	else
		fuse_reply_err(req, EPERM);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, parent);
	if (dir->ops->rmdir)
		HOLDING(dir->ops->rmdir(fs, req, dir, name));
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
		HOLDING(rename.from_dir->ops->rename(fs, req, &rename));
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
	opened_forget(fs, (void *)(uintptr_t)fi->fh);
	if (node->ops->release)
		node->ops->release(fs, node, fi);
	fuse_reply_err(req, 0);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)datasync, (void)fi;
	struct fs *fs = fs_of(req);
	struct node *node = node_of(fs, ino);
	if (node->ops->fsync)
		node->ops->fsync(fs, req, node);
	else
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
    .opendir = dir_opendir,
    .readdir = dir_readdir,
    .readdirplus = dir_readdirplus,
    .releasedir = dir_releasedir,
    .statfs = op_statfs,
    .setxattr = xattr_set,
    .getxattr = xattr_get,
    .listxattr = xattr_list,
    .removexattr = xattr_remove,
    .poll = op_poll,
};
