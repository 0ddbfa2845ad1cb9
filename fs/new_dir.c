/* SPDX-License-Identifier: MIT */
/*
 * new/ and new/@N/: drafts by name, and the moments in which a draft becomes a message.
 *
 * Every open for writing of a name without a leading dot is a message of its own (P1). The kernel opens a
 * name in two steps, LOOKUP then OPEN or CREATE, and only CREATE can give an inode of one's own. So a draft being
 * written has no name, and an OPEN for writing of a name that exists (a ghost, a kept draft) answers ESTALE, on which
 * the kernel looks the name up once more (fs/namei.c, do_filp_open with LOOKUP_REVAL): this second look-up by the same
 * thread finds nothing, and CREATE follows. Only an empty draft that nobody has open is taken over (P7).
 */
#include "new_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/property.h>

#include "draft.h"
#include "moved.h"
#include "notify.h"
#include "proc.h"
#include "queue.h"

struct draft_handle {
	struct draft *draft; /* a reference */
	bool writable;
};

/* --- threads whose open was answered ESTALE, and who shall not find the name again (all locked) --- */

#define RETRY_WINDOW_MS 1000

static void note_reopen(struct fs *fs, pid_t tid, struct draft *draft)
{
	struct reopen *reopen = &fs->reopens[fs->next_reopen++ % REOPENS];
	reopen->tid = tid;
	reopen->until_ms = mqfs_clock_monotonic_ms() + RETRY_WINDOW_MS;
	reopen->queue = draft->queue;
	strcpy(reopen->name, draft->name);
}

static bool is_reopening(struct fs *fs, pid_t tid, struct queue *queue, const char *name, bool done)
{
	for (unsigned i = 0; i < REOPENS; i++) {
		struct reopen *reopen = &fs->reopens[i];
		if (reopen->tid != tid || reopen->queue != queue || strcmp(reopen->name, name) != 0)
			continue;
		bool current = tid != 0 && reopen->until_ms > mqfs_clock_monotonic_ms();
		if (done || !current)
			reopen->tid = 0;
		return current;
	}
	return false;
}

/* --- directories --- */

int new_dir_priority(const struct node *dir)
{
	const struct queue *queue = dir->queue;
	const char *base = (const char *)&queue->slots[SLOT_PRIORITY];
	const char *object = dir->object;
	return object < base ? -1 : (int)((object - base) / (ptrdiff_t)sizeof(queue->slots[0]));
}

static int priority_of_name(const char *name)
{
	char *end;
	if (name[0] != '@' || name[1] < '0' || name[1] > '9')
		return -1;
	long priority = strtol(name + 1, &end, 10);
	return *end == '\0' && end - name <= 4 && priority <= 255 ? (int)priority : -1;
}

static int new_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	struct queue *queue = dir->queue;
	int priority = new_dir_priority(dir), child_priority = priority_of_name(name);
	if (priority < 0 && child_priority >= 0) {
		*ret_node = tree_node(fs, &new_dir_ops, queue, &queue->slots[SLOT_PRIORITY + child_priority], VIEW_ONLY);
		return *ret_node ? 0 : -ENOMEM;
	}
	struct draft *draft = draft_find(queue, priority, name);
	if (name[0] != '.' && is_reopening(fs, tid, queue, name, false))
		return -ENOENT;
	if (!draft)
		return moved_child(fs, dir, name, ret_node);
	draft->dir = node_ino(fs, dir);
	*ret_node = tree_node(fs, &draft_ops, queue, draft, VIEW_ONLY);
	return *ret_node ? 0 : -ENOMEM;
}

static void new_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	int priority = new_dir_priority(dir);
	struct draft *draft, *next;
	HASH_ITER(hh, dir->queue->drafts, draft, next)
	{
		if (draft->priority == priority && draft->state != DRAFT_GHOST)
			listing_add(listing, draft->name, node_number(fs, draft, VIEW_ONLY), S_IFREG);
	}
}

/* Makes the draft and the handle of a CREATE, or says why not. (locked) */
static int create_locked(struct fs *fs, struct node *dir, const char *name, mode_t mode, pid_t tgid,
                         struct draft_handle **ret_handle, struct node **ret_node)
{
	struct queue *queue = dir->queue;
	struct draft_handle *handle = calloc(1, sizeof(*handle));
	struct draft *draft = handle ? draft_new(queue, new_dir_priority(dir), name, mode) : NULL;
	struct node *node = draft ? tree_node(fs, &draft_ops, queue, draft, VIEW_ONLY) : NULL;
	if (!node) {
		int error = handle && !draft ? errno : ENOMEM;
		if (draft)
			draft_unref(draft);
		free(handle);
		return -error;
	}
	*handle = (struct draft_handle){draft, true};
	draft->handles = 1;
	draft->dir = node_ino(fs, dir);
	draft->writers.opener = tgid;
	if (name[0] == '.') {
		draft_set_name(draft, queue, draft->priority, name);
		draft_move(draft, DRAFT_DOT);
	}
	*ret_handle = handle;
	*ret_node = node;
	return 0;
}

static void new_create(struct fs *fs, fuse_req_t req, struct node *dir, const char *name, mode_t mode,
                       struct fuse_file_info *fi)
{
	pid_t tid = fuse_req_ctx(req)->pid, tgid = proc_tgid(tid);
	struct draft_handle *handle = NULL;
	struct node *node = NULL;

	if (new_dir_priority(dir) < 0 && priority_of_name(name) >= 0) {
		fuse_reply_err(req, EISDIR);
		return;
	}
	fs_lock(fs);
	is_reopening(fs, tid, dir->queue, name, true);
	int result = dir->queue->listed ? create_locked(fs, dir, name, mode, tgid, &handle, &node) : -ENOENT;
	fs_unlock(fs);
	if (result < 0) {
		fuse_reply_err(req, -result);
		return;
	}
	fi->direct_io = 1;
	fi->fh = (uintptr_t)handle;
	reply_create(fs, req, node, fi);
}

static void new_unlink(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	fs_lock(fs);
	struct draft *draft = draft_find(dir->queue, new_dir_priority(dir), name);
	int error = draft && draft->state == DRAFT_SENDING ? EBUSY : 0;
	if (!draft)
		error = moved_remove(dir, name) ? 0 : ENOENT;
	else if (error == 0)
		draft_discard(draft);
	fs_unlock(fs);
	fuse_reply_err(req, error);
}

/* --- renaming: within new/ of any queue of the mount --- */

/* To a dot-name: an ordinary file. (locked) */
static int rename_to_dot(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	struct draft *other = draft_find(queue, priority, name);
	if (draft->state == DRAFT_GHOST) {
		draft_discard(draft);
		return 0;
	}
	if (draft->state == DRAFT_SENDING || (other && other->state == DRAFT_SENDING))
		return -EBUSY;
	if (other && other != draft)
		draft_discard(other);
	draft_move(draft, DRAFT_DOT);
	draft->spoiled = draft->killed = draft->attempted = false;
	free(draft->reason);
	draft->reason = NULL;
	draft_set_name(draft, queue, priority, name);
	return 0;
}

/* 1: prepared, to be sent. (locked) */
static int rename_to_message(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	if (draft->state == DRAFT_GHOST) {
		struct draft *other = draft_find(queue, priority, name);
		if (other && other->state != DRAFT_GHOST)
			draft_discard(draft); /* nothing written or renamed onto a kept draft replaces it */
		else
			draft_move_ghost(draft, queue, priority, name);
		return 0;
	}
	if (draft->state == DRAFT_DOT && draft->handles > 0) {
		draft_reopen(draft, queue, priority, name);
		return 0;
	}
	int result = draft_prepare(draft, queue, priority, name);
	return result < 0 ? result : 1;
}

static void new_rename(struct fs *fs, fuse_req_t req, const struct rename *rename)
{
	if (rename->to_dir->ops != &new_dir_ops) {
		fuse_reply_err(req, EPERM);
		return;
	}
	struct queue *queue = rename->to_dir->queue;
	int priority = new_dir_priority(rename->to_dir);

	fs_lock(fs);
	struct draft *draft = draft_find(rename->from_dir->queue, new_dir_priority(rename->from_dir), rename->from);
	int result = !draft || !queue->listed ? -ENOENT
	             : rename->to[0] == '.' ? rename_to_dot(draft, queue, priority, rename->to)
	                                    : rename_to_message(draft, queue, priority, rename->to);
	if (result >= 0)
		draft_ref(draft);
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + queue->settings.rename_timeout_ms;
	fs_unlock(fs);

	if (result <= 0)
		fuse_reply_err(req, -result);
	else
		draft_send(fs, draft, park(fs, req, deadline_ms, INTERRUPT_WHEN_DYING, NULL, NULL), deadline_ms);
	if (result >= 0) {
		fs_lock(fs);
		draft_unref(draft);
		fs_unlock(fs);
	}
}

/* --- drafts as files --- */

static void *hold_draft(void *object)
{
	return draft_ref(object);
}

static void drop_draft(void *object)
{
	draft_unref(object);
}

static void draft_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	const struct draft *draft = node->object;
	st->st_mode = S_IFREG | draft->mode;
	st->st_size = (off_t)draft->bytes;
	st->st_mtim.tv_sec = draft->modified_us / 1000000;
	st->st_mtim.tv_nsec = draft->modified_us % 1000000 * 1000;
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

static int truncate_locked(struct draft *draft, off_t size)
{
	if (draft->state == DRAFT_GHOST)
		return 0;
	if (draft->state != DRAFT_WRITING && draft->state != DRAFT_DOT && draft->state != DRAFT_EMPTY)
		return -EBADF;
	if (size > draft->queue->settings.max_body_bytes)
		return -EFBIG;
	int result = own_body(draft->message);
	if (result == 0)
		result = mqfs_body_truncate(draft->message->body, (size_t)size);
	if (result == 0)
		draft->bytes = (size_t)size;
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
		note_reopen(fs, tid, draft);
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
		draft_ops.release(fs, node, fi);
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
	if (draft->state != DRAFT_WRITING && draft->state != DRAFT_DOT)
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

static void draft_setattr(struct fs *fs, fuse_req_t req, struct node *node, const struct stat *st, int to_set)
{
	struct draft *draft = node->object;
	int result = 0;
	fs_lock(fs);
	if (to_set & FUSE_SET_ATTR_SIZE)
		result = truncate_locked(draft, st->st_size);
	if (result == 0 && (to_set & FUSE_SET_ATTR_MODE))
		draft->mode = st->st_mode & 0777;
	if (result == 0 && (to_set & FUSE_SET_ATTR_MTIME))
		draft->modified_us = st->st_mtim.tv_sec * 1000000 + st->st_mtim.tv_nsec / 1000;
	if (result == 0 && (to_set & FUSE_SET_ATTR_MTIME_NOW))
		draft->modified_us = mqfs_clock_realtime_us();
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

static int draft_setxattr(struct fs *fs, struct node *node, const char *name, const char *value, size_t bytes, int flags)
{
	(void)flags;
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

const struct node_ops draft_ops = {
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

const struct node_ops new_dir_ops = {
	.mode = S_IFDIR | 0700,
	.entry_timeout = 1.0,
	.child = new_child,
	.list = new_list,
	.create = new_create,
	.unlink = new_unlink,
	.rename = new_rename,
};
