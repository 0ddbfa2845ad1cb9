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

#include <mqfs/property.h>

#include "draft.h"
#include "new_dir.h"
#include "proc.h"
#include "queue.h"

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
	st->st_nlink = draft->state == DRAFT_GONE ? 0 : 1;
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
	       (draft->state == DRAFT_GONE && draft->message);
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
	}
	return result;
}

/* 0, or why this open can't have the draft; ESTALE sends the kernel to CREATE. (locked) */
static int open_for_writing(struct fs *fs, struct draft *draft, pid_t tid, pid_t tgid)
{
	if (draft->state == DRAFT_EMPTY && draft->handles == 0) {
		draft_move(draft, DRAFT_WRITING);
		draft_drop_name(draft);
		draft->attempted = false;
	} else if (draft->state != DRAFT_DOT) {
		new_dir_note_reopen(fs, tid, draft);
		return -ESTALE;
	}
	memset(&draft->writers, 0, sizeof(draft->writers));
	draft->writers.opener = tgid;
	draft->handles++;
	return 0;
}

static void draft_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct draft *draft = node->object;
	bool writable = (fi->flags & O_ACCMODE) != O_RDONLY;
	pid_t tid = fuse_req_ctx(req)->pid, tgid = writable ? proc_tgid(tid) : 0;
	struct draft_handle *handle = calloc(1, sizeof(*handle));
	if (!handle) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fs_lock(fs);
	int result = writable ? open_for_writing(fs, draft, tid, tgid) : draft->message ? 0 : -ENOENT;
	if (result == 0) {
		*handle = (struct draft_handle){draft_ref(draft), writable};
		if (writable && (fi->flags & O_TRUNC))
			truncate_locked(draft, 0);
	}
	fs_unlock(fs);
	if (result < 0) {
		free(handle);
		fuse_reply_err(req, -result);
		return;
	}
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

static int write_locked(struct draft *draft, const char *data, size_t size, off_t offset, pid_t tid)
{
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
	writers_note(&draft->writers, tid);
	return 0;
}

static void draft_write(struct fs *fs, fuse_req_t req, struct node *node, const char *data, size_t size, off_t offset,
                        struct fuse_file_info *fi)
{
	(void)fi;
	fs_lock(fs);
	int result = write_locked(node->object, data, size, offset, fuse_req_ctx(req)->pid);
	fs_unlock(fs);
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		fuse_reply_write(req, size);
}

/* --- completion (P8) --- */

/* What the completing close() does: 1 send, else 0 or the close()'s error. (locked) */
static int complete_locked(struct draft *draft)
{
	if (draft->spoiled || draft->killed) {
		int error = draft->spoiled && draft->error ? draft->error : EIO;
		draft_keep(draft, error, draft->spoiled ? "a write failed" : "a writer was killed by a signal");
		return -error;
	}
	if (!draft_has_data(draft)) {
		mqfs_name_t name;
		strcpy(name, draft->name);
		draft_move(draft, DRAFT_EMPTY);
		draft_set_name(draft, draft->queue, draft->priority, name);
		return 0;
	}
	int result = draft_prepare(draft, draft->queue, draft->priority, draft->name);
	return result < 0 ? result : 1;
}

static void draft_flush(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct draft_handle *handle = (struct draft_handle *)(uintptr_t)fi->fh;
	struct draft *draft = handle->draft;
	pid_t tid = fuse_req_ctx(req)->pid;

	fs_lock(fs);
	bool open = handle->writable && draft->state == DRAFT_WRITING;
	struct writers writers = draft->writers;
	fs_unlock(fs);
	enum completion completion = open ? complete_check(&writers, tid, node->key) : COMPLETE_NO;

	int result = 0;
	fs_lock(fs);
	if (draft->state == DRAFT_WRITING && completion == COMPLETE_KILLED)
		draft->killed = true;
	if (draft->state == DRAFT_WRITING && completion == COMPLETE_YES && draft->handles == 1)
		result = complete_locked(draft);
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + draft->queue->settings.publish_timeout_ms;
	fs_unlock(fs);

	if (result <= 0) {
		fuse_reply_err(req, -result);
		return;
	}
	/* The backend keeps its deadline; the parked one is a little later, for a backend that can't. */
	draft_send(fs, draft, park(fs, req, deadline_ms + 1000, INTERRUPT_WHEN_DYING, NULL, NULL), deadline_ms);
}

static void draft_release(struct fs *fs, struct node *node, struct fuse_file_info *fi)
{
	(void)node;
	struct draft_handle *handle = (struct draft_handle *)(uintptr_t)fi->fh;
	struct draft *draft = handle->draft;
	int result = 0;

	fs_lock(fs);
	if (handle->writable && --draft->handles == 0 && draft->state == DRAFT_WRITING)
		result = complete_locked(draft);
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + draft->queue->settings.publish_timeout_ms;
	fs_unlock(fs);
	if (result == 1)
		draft_send(fs, draft, 0, deadline_ms);

	fs_lock(fs);
	draft_unref(draft);
	fs_unlock(fs);
	free(handle);
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
	if (to_set & FUSE_SET_ATTR_SIZE)
		result = truncate_locked(draft, st->st_size);
	if (result == 0 && (to_set & FUSE_SET_ATTR_MODE))
		draft->mode = st->st_mode & 0777;
	if (result == 0)
		set_times(draft, st, to_set);
	struct stat attr;
	node_attr(fs, node, &attr);
	fs_unlock(fs);
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		fuse_reply_attr(req, &attr, 0);
}

/* --- properties (P3) --- */

static int set_delay(struct draft *draft, const char *value, size_t bytes)
{
	char text[24], *end;
	if (bytes == 0 || bytes >= sizeof(text) || value[0] < '0' || value[0] > '9')
		return -EINVAL;
	memcpy(text, value, bytes);
	text[bytes] = '\0';
	errno = 0;
	long long delay_ms = strtoll(text, &end, 10);
	if (errno || *end || delay_ms > DELAY_MAX_MS)
		return -EINVAL;
	draft->delay_ms = delay_ms;
	return 0;
}

static int draft_setxattr(struct fs *fs, struct node *node, const char *name, const char *value, size_t bytes)
{
	struct draft *draft = node->object;
	int result;
	fs_lock(fs);
	if (!draft->message)
		result = 0; /* a ghost: what comes after publishing changes nothing (P5) */
	else if (draft->state == DRAFT_SENDING)
		result = -EBUSY;
	else if (strcmp(name, "error") == 0)
		result = -EPERM;
	else if (strcmp(name, "delay") == 0)
		result = set_delay(draft, value, bytes);
	else
		result = mqfs_property_set(draft->message, name, value, bytes);
	fs_unlock(fs);
	return result;
}

static int copy_text(const char *text, char **ret_value, size_t *ret_bytes)
{
	*ret_value = strdup(text);
	*ret_bytes = strlen(text);
	return *ret_value ? 0 : -ENOMEM;
}

static int draft_getxattr(struct fs *fs, struct node *node, const char *name, char **ret_value, size_t *ret_bytes)
{
	struct draft *draft = node->object;
	char text[24];
	int result = -ENODATA;
	fs_lock(fs);
	if (!draft->message) {
		result = -ENODATA;
	} else if (strcmp(name, "error") == 0) {
		result = draft->reason ? copy_text(draft->reason, ret_value, ret_bytes) : -ENODATA;
	} else if (strcmp(name, "delay") == 0) {
		snprintf(text, sizeof(text), "%lld", (long long)draft->delay_ms);
		result = draft->delay_ms ? copy_text(text, ret_value, ret_bytes) : -ENODATA;
	} else {
		result = mqfs_property_get(draft->message, name, ret_value, ret_bytes);
	}
	fs_unlock(fs);
	return result;
}

static int draft_removexattr(struct fs *fs, struct node *node, const char *name)
{
	struct draft *draft = node->object;
	int result = -ENODATA;
	fs_lock(fs);
	if (draft->message && draft->state == DRAFT_SENDING) {
		result = -EBUSY;
	} else if (draft->message && strcmp(name, "delay") == 0) {
		result = draft->delay_ms ? 0 : -ENODATA;
		draft->delay_ms = 0;
	} else if (draft->message && strcmp(name, "error") != 0) {
		result = mqfs_property_remove(draft->message, name);
	}
	fs_unlock(fs);
	return result;
}

static void draft_listxattr(struct fs *fs, struct node *node, void (*each)(const char *name, void *arg), void *arg)
{
	struct draft *draft = node->object;
	fs_lock(fs);
	if (draft->message)
		mqfs_property_each(draft->message, each, arg);
	if (draft->reason)
		each("error", arg);
	if (draft->delay_ms)
		each("delay", arg);
	fs_unlock(fs);
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
    .setxattr = draft_setxattr,
    .getxattr = draft_getxattr,
    .removexattr = draft_removexattr,
    .listxattr = draft_listxattr,
};
