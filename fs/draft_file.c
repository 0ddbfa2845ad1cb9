/* SPDX-License-Identifier: MIT */
/*
 * A draft as a file: what can be done through an open descriptor, and the moments in which a close() makes it a message
 * (complete.h). By name it is new_dir.c's.
 */
#include "draft_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "draft.h"
#include "draft_close.h"
#include "draft_store.h"
#include "draft_xattr.h"
#include "new_dir.h"
#include "proc.h"
#include "queue.h"

void draft_handle_open(struct draft_handle *handle, struct draft *draft, bool writable)
{
	*handle = (struct draft_handle){.draft = draft_ref(draft), .writable = writable};
	draft_pin(draft);
	DL_APPEND(draft->queue->fs->draft_handles, handle);
}

void draft_handle_close(struct draft_handle *handle)
{
	DL_DELETE(handle->draft->queue->fs->draft_handles, handle);
	draft_unpin(handle->draft);
	draft_unref(handle->draft);
	free(handle);
}

static void *hold_draft(void *object)
{
	return draft_ref(object);
}

static void drop_draft(void *object)
{
	draft_unref(object);
}

static struct timespec timespec_of(int64_t time_us)
{
	return (struct timespec){time_us / 1000000, time_us % 1000000 * 1000};
}

static int64_t time_us_of(const struct timespec *time)
{
	return time->tv_sec * 1000000 + time->tv_nsec / 1000;
}

static void draft_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	const struct draft *draft = node->object;
	st->st_mode = S_IFREG | draft->mode;
	st->st_nlink = draft->state == DRAFT_GONE || draft->state == DRAFT_REMOVED ? 0 : 1;
	st->st_size = (off_t)draft->bytes;
	st->st_mtim = timespec_of(draft->modified_us);
	st->st_atim = timespec_of(draft->accessed_us);
}

/* The content may be shared with a message on its way: then it is no longer ours to change. (locked) */
static int own_body(struct mqfs_message *message)
{
	if (atomic_load(&message->body->references) == 1)
		return 0;
	struct mqfs_body *copy = mqfs_body_new();
	if (!copy || mqfs_body_write(copy, 0, message->body->data, message->body->bytes) < 0) {
		mqfs_body_unref(copy);
		return -ENOMEM;
	}
	mqfs_body_unref(message->body);
	message->body = copy;
	return 0;
}

/* Also when it was removed and is still open, as any unlinked file; not once it is a message. (locked) */
static bool is_writable(const struct draft *draft)
{
	return draft->state == DRAFT_WRITING || draft->state == DRAFT_DOT ||
	       (draft->state == DRAFT_GONE && draft->message && !draft->published);
}

static int truncate_locked(struct draft *draft, off_t size)
{
	if (draft->state == DRAFT_GHOST)
		return 0;
	if (!is_writable(draft) && draft->state != DRAFT_EMPTY)
		return -EBADF;
	if (size > draft->queue->settings.max_body_bytes)
		return -EFBIG;
	int result = own_body(draft->message);
	if (result == 0)
		result = mqfs_body_truncate(draft->message->body, (size_t)size);
	if (result == 0) {
		draft->bytes = (size_t)size;
		draft->modified_us = mqfs_clock_realtime_us();
		if (size == 0 && draft->state == DRAFT_DOT) { /* nothing is left of what failed */
			draft->spoiled = false;
			draft->error = 0;
		}
		draft_changed(draft);
	}
	return result;
}

/* 0, or why this open can't have the draft; ESTALE sends the kernel to CREATE. (locked) */
static int open_for_writing(struct fs *fs, struct draft *draft, pid_t tid, const struct writers *writers)
{
	if (draft->state == DRAFT_EMPTY && draft->handles == 0) {
		draft_move(draft, DRAFT_WRITING);
		draft_drop_name(draft);
		draft->attempted = false;
	} else if (draft->state != DRAFT_DOT) {
		new_dir_note_reopen(fs, tid, draft);
		return -ESTALE;
	}
	draft->writers = *writers;
	draft->handles++;
	return 0;
}

/* An open or a truncation that waits for the content. */
struct file_fetch {
	struct fetch fetch;
	struct node *node; /* the kernel keeps it while its request is unanswered */
	struct fuse_file_info fi;
	struct stat st;
	int to_set;
};

static void open_fetched(struct fs *fs, fuse_req_t req, struct fetch *fetch, int result)
{
	struct file_fetch *waited = (struct file_fetch *)fetch;
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		draft_file_ops.open(fs, req, waited->node, &waited->fi);
}

static void setattr_fetched(struct fs *fs, fuse_req_t req, struct fetch *fetch, int result)
{
	struct file_fetch *waited = (struct file_fetch *)fetch;
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		draft_file_ops.setattr(fs, req, waited->node, &waited->st, waited->to_set);
}

static void fetch_for(struct fs *fs, fuse_req_t req, struct file_fetch what)
{
	struct file_fetch *waited = malloc(sizeof(*waited));
	if (!waited) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	*waited = what;
	draft_fetch(fs, req, what.node->object, &waited->fetch);
}

/* 1 with a handle, 0: its content has to be fetched first, or -errno. (locked) */
static int open_locked(struct fs *fs, struct draft *draft, fuse_req_t req, int flags, const struct writers *writers,
                       struct draft_handle *handle)
{
	bool writable = (flags & O_ACCMODE) != O_RDONLY;
	bool ours = draft->state == DRAFT_DOT || draft->state == DRAFT_EMPTY;
	if (draft_is_away(draft) && (ours || !writable))
		return 0;
	if (!writable && !draft->message)
		return -ENOENT;
	int result = writable ? open_for_writing(fs, draft, fuse_req_ctx(req)->pid, writers) : 0;
	if (result < 0)
		return result;
	draft_handle_open(handle, draft, writable);
	if (writable && (flags & O_TRUNC))
		truncate_locked(draft, 0);
	return 1;
}

static void draft_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	bool writable = (fi->flags & O_ACCMODE) != O_RDONLY;
	struct writers writers = {0};
	if (writable)
		writers_begin(&writers, proc_tgid(fuse_req_ctx(req)->pid), proc_newest());
	struct draft_handle *handle = calloc(1, sizeof(*handle));
	if (!handle) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fs_lock(fs);
	int result = open_locked(fs, node->object, req, fi->flags, &writers, handle);
	fs_unlock(fs);
	if (result != 1)
		free(handle);
	if (result == 0)
		fetch_for(fs, req, (struct file_fetch){.fetch.run = open_fetched, .node = node, .fi = *fi});
	if (result < 0)
		fuse_reply_err(req, -result);
	if (result != 1)
		return;
	fi->direct_io = 1;
	fi->fh = (uintptr_t)handle;
	if (fuse_reply_open(req, fi) != 0)
		draft_file_ops.release(fs, node, fi);
}

static void draft_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
	(void)fi;
	struct draft *draft = node->object;
	fs_lock(fs);
	struct mqfs_body *body = draft->message ? mqfs_body_ref(draft->message->body) : NULL;
	fs_unlock(fs);
	/* The second reference keeps writers from changing it while it is copied to the kernel. */
	if (body)
		reply_slice(req, body->data, body->bytes, size, offset);
	else
		fuse_reply_err(req, EBADF);
	mqfs_body_unref(body);
}

static int spoil(struct draft *draft, int error)
{
	draft->spoiled = true;
	draft->error = error;
	return -error;
}

static int write_locked(struct draft_handle *handle, const char *data, size_t size, off_t offset)
{
	struct draft *draft = handle->draft;
	if (handle->let_go) { /* but not by all */
		handle->let_go = false;
		draft->handles++;
	}
	if (draft->state == DRAFT_EMPTY) { /* listed when its opener closed; somebody who was handed it writes on */
		draft_move(draft, DRAFT_WRITING);
		draft_drop_name(draft);
	}
	if (!is_writable(draft))
		return -EBADF;
	if (offset < 0 || (int64_t)(offset + size) > draft->queue->settings.max_body_bytes)
		return spoil(draft, EFBIG);
	if (own_body(draft->message) < 0 || mqfs_body_write(draft->message->body, (size_t)offset, data, size) < 0)
		return spoil(draft, ENOMEM);
	draft->bytes = draft->message->body->bytes;
	draft->modified_us = mqfs_clock_realtime_us();
	draft_changed(draft);
	return 0;
}

static void draft_write(struct fs *fs, fuse_req_t req, struct node *node, const char *data, size_t size, off_t offset,
                        struct fuse_file_info *fi)
{
	struct draft_handle *handle = (struct draft_handle *)(uintptr_t)fi->fh;
	struct draft *draft = node->object;
	pid_t tid = fuse_req_ctx(req)->pid;
	fs_lock(fs);
	if (!writers_know(&draft->writers, tid)) {
		fs_unlock(fs);
		pid_t tgid = proc_tgid(tid);
		fs_lock(fs);
		writers_note(&draft->writers, tid, tgid);
	}
	int result = write_locked(handle, data, size, offset);
	fs_unlock(fs);
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		fuse_reply_write(req, size);
}

/* (locked) */
static void set_times(struct draft *draft, const struct stat *st, int to_set)
{
	if (to_set & FUSE_SET_ATTR_MTIME)
		draft->modified_us = time_us_of(&st->st_mtim);
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		draft->modified_us = mqfs_clock_realtime_us();
	if (to_set & FUSE_SET_ATTR_ATIME)
		draft->accessed_us = time_us_of(&st->st_atim);
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		draft->accessed_us = mqfs_clock_realtime_us();
}

static void draft_setattr(struct fs *fs, fuse_req_t req, struct node *node, const struct stat *st, int to_set)
{
	struct draft *draft = node->object;
	int result = 0;
	fs_lock(fs);
	bool away = (to_set & FUSE_SET_ATTR_SIZE) && draft_is_away(draft);
	if (!away && (to_set & FUSE_SET_ATTR_SIZE))
		result = truncate_locked(draft, st->st_size);
	if (!away && result == 0 && (to_set & FUSE_SET_ATTR_MODE))
		draft->mode = st->st_mode & 0777;
	if (!away && result == 0)
		set_times(draft, st, to_set);
	/* What waits in the outbox has its master there, which nothing would follow. */
	if (!away && result == 0 && draft->state != DRAFT_QUEUED)
		draft_changed(draft);
	struct stat attr;
	node_attr(fs, node, &attr);
	fs_unlock(fs);
	if (away)
		fetch_for(fs, req,
		          (struct file_fetch){.fetch.run = setattr_fetched, .node = node, .st = *st, .to_set = to_set});
	else if (result < 0)
		fuse_reply_err(req, -result);
	else
		fuse_reply_attr(req, &attr, 0);
}

static void draft_fsync(struct fs *fs, fuse_req_t req, struct node *node)
{
	draft_sync(fs, req, node->object);
}

const struct node_ops draft_file_ops = {
    .mode = S_IFREG | 0600,
    .attr = draft_attr,
    .hold = hold_draft,
    .drop = drop_draft,
    .open = draft_open,
    .read = draft_read,
    .write = draft_write,
    .flush = draft_flush,
    .release = draft_release,
    .setattr = draft_setattr,
    .fsync = draft_fsync,
    .away = draft_xattr_away,
    .fetch = draft_xattr_fetch,
    .setxattr = draft_xattr_set,
    .getxattr = draft_xattr_get,
    .removexattr = draft_xattr_remove,
    .listxattr = draft_xattr_list,
};
