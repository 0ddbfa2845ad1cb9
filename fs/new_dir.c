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
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "dir.h"
#include "draft.h"
#include "draft_file.h"
#include "draft_queued.h"
#include "draft_send.h"
#include "draft_store.h"
#include "moved.h"
#include "proc.h"
#include "queue.h"

/* --- threads whose open was answered ESTALE, and who shall not find the name again (all locked) --- */

#define RETRY_WINDOW_MS 10000 /* a busy machine may take its time between two requests of one open */
/* The kernel's retry looks the name up twice, to see whether what it knows still holds and to open it; another look-up
 * of the name meanwhile may make it begin anew. Who opened without O_CREAT is done then: once more it finds nothing,
 * since cp goes on with O_CREAT and O_EXCL, and then the name again. */
#define RETRY_LOOKS 3
#define RETRY_LOOKS_CONTENDED 16
/* More threads than these, and the oldest's open fails. */
#define REOPENS_MAX 1024

struct reopen {
	pid_t tid;
	int64_t until_ms;
	unsigned looks_left;
	struct queue *queue; /* compared only */
	struct reopen *prev, *next;
	mqfs_name_t name;
};

static void forget_reopen(struct fs *fs, struct reopen *reopen)
{
	DL_DELETE(fs->reopens, reopen);
	fs->reopen_count--;
	free(reopen);
}

/* Those of the thread, of which the last counts, and those whose time is over. */
static void forget_reopens(struct fs *fs, pid_t tid, int64_t now_ms)
{
	struct reopen *reopen, *next;
	DL_FOREACH_SAFE(fs->reopens, reopen, next)
	{
		if (reopen->tid == tid || reopen->until_ms <= now_ms)
			forget_reopen(fs, reopen);
	}
	if (fs->reopen_count == REOPENS_MAX)
		forget_reopen(fs, fs->reopens);
}

void new_dir_note_reopen(struct fs *fs, pid_t tid, const struct draft *draft)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();
	forget_reopens(fs, tid, now_ms);
	struct reopen *reopen = tid != 0 ? malloc(sizeof(*reopen)) : NULL;
	if (!reopen)
		return;
	*reopen = (struct reopen){.tid = tid, .until_ms = now_ms + RETRY_WINDOW_MS, .looks_left = RETRY_LOOKS};
	reopen->queue = draft->queue;
	strcpy(reopen->name, draft->name);
	DL_APPEND(fs->reopens, reopen);
	fs->reopen_count++;
}

static bool is_reopening(struct fs *fs, pid_t tid, struct queue *queue, const char *name, bool done)
{
	struct reopen *reopen, *own = NULL;
	DL_FOREACH(fs->reopens, reopen)
	{
		if (reopen->queue != queue || strcmp(reopen->name, name) != 0)
			continue;
		if (reopen->tid == tid)
			own = reopen;
		else
			reopen->looks_left = RETRY_LOOKS_CONTENDED;
	}
	if (!own)
		return false;
	bool current = own->until_ms > mqfs_clock_monotonic_ms();
	if (done || !current || --own->looks_left == 0)
		forget_reopen(fs, own);
	return current;
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
		*ret_node =
		    tree_node(fs, &new_dir_ops, queue, &queue->slots[SLOT_PRIORITY + child_priority], VIEW_ONLY);
		return *ret_node ? 0 : -ENOMEM;
	}
	struct draft *draft = draft_find(queue, priority, name);
	if (name[0] != '.' && is_reopening(fs, tid, queue, name, false))
		return -ENOENT;
	if (!draft)
		return moved_child(fs, dir, name, ret_node);
	draft->dir = node_ino(fs, dir);
	*ret_node = tree_node(fs, &draft_file_ops, queue, draft, VIEW_ONLY);
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

/* See draft_remove. (locked) */
static void put_back(struct node *dir, const char *name, pid_t tid, bool exclusive)
{
	struct draft *draft = draft_put_back(dir->queue, new_dir_priority(dir), name, tid, exclusive);
	if (draft && draft->state == DRAFT_QUEUED)
		draft_line_up_again(draft);
}

/* Makes the draft and the handle of a CREATE, or says why not. (locked) */
static int create_locked(struct fs *fs, struct node *dir, const char *name, mode_t mode, const struct writers *writers,
                         struct draft_handle **ret_handle, struct node **ret_node)
{
	struct queue *queue = dir->queue;
	struct draft_handle *handle = calloc(1, sizeof(*handle));
	struct draft *draft = handle ? draft_new(queue, new_dir_priority(dir), name, mode) : NULL;
	struct node *node = draft ? tree_node(fs, &draft_file_ops, queue, draft, VIEW_ONLY) : NULL;
	if (!node) {
		int error = handle && !draft ? errno : ENOMEM;
		if (draft)
			draft_unref(draft);
		free(handle);
		return -error;
	}
	draft_handle_open(handle, draft, true);
	draft_unref(draft);
	draft->handles = 1;
	draft->dir = node_ino(fs, dir);
	draft->writers = *writers;
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
	pid_t tid = fuse_req_ctx(req)->pid;
	struct writers writers;
	struct draft_handle *handle = NULL;
	struct node *node = NULL;

	if (new_dir_priority(dir) < 0 && priority_of_name(name) >= 0) {
		fuse_reply_err(req, EISDIR);
		return;
	}
	writers_begin(&writers, proc_tgid(tid), proc_newest());
	fs_lock(fs);
	is_reopening(fs, tid, dir->queue, name, true);
	put_back(dir, name, tid, fi->flags & O_EXCL);
	int result = dir->queue->listed ? create_locked(fs, dir, name, mode, &writers, &handle, &node) : -ENOENT;
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
	pid_t tid = fuse_req_ctx(req)->pid;
	fs_lock(fs);
	struct draft *draft = draft_find(dir->queue, new_dir_priority(dir), name), *queued = NULL;
	int error = draft && draft->state == DRAFT_SENDING ? EBUSY : 0;
	if (!draft) {
		error = moved_remove(dir, name) ? 0 : ENOENT;
	} else if (draft->state == DRAFT_QUEUED) {
		queued = draft_ref(draft);
	} else if (draft->state == DRAFT_KEPT) {
		draft_remove(fs, draft, tid);
	} else if (error == 0) {
		/* Whoever takes back what was queued must know that it came too late (P6). */
		error = draft->was_queued ? ENOENT : 0;
		draft_discard(draft);
	}
	fs_unlock(fs);
	if (!queued) {
		fuse_reply_err(req, error);
		return;
	}
	draft_take_back(fs, req, queued, tid);
	fs_lock(fs);
	draft_unref(queued);
	fs_unlock(fs);
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
	draft_become_file(draft, queue, priority, name);
	draft_changed(draft);
	return 0;
}

/* What new_rename has to do yet. */
enum further { DONE, SEND, ASK };

/* (locked) */
static int rename_to_message(struct draft *draft, bool closed, struct queue *queue, int priority, const char *name)
{
	if (draft->state == DRAFT_GHOST) {
		struct draft *other = draft_find(queue, priority, name);
		if (other && other->state != DRAFT_GHOST)
			draft_discard(draft); /* nothing written or renamed onto a kept draft replaces it */
		else
			draft_move_ghost(draft, queue, priority, name);
		return DONE;
	}
	if (draft->state == DRAFT_DOT && draft->handles > 0 && !closed) {
		draft_reopen(draft, queue, priority, name);
		return DONE;
	}
	int result = draft_prepare(draft, queue, priority, name);
	return result < 0 ? result : SEND;
}

/* A rename that waits for its content. */
struct rename_fetch {
	struct fetch fetch;
	struct node *from_dir, *to_dir;
	mqfs_name_t from, to;
};

/* The kernel keeps both directories while its request is unanswered. */
static void rename_fetched(struct fs *fs, fuse_req_t req, struct fetch *fetch, int result)
{
	struct rename_fetch *waited = (struct rename_fetch *)fetch;
	struct rename rename = {waited->from_dir, waited->from, waited->to_dir, waited->to, 0};
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		waited->from_dir->ops->rename(fs, req, &rename);
}

static void fetch_and_rename(struct fs *fs, fuse_req_t req, struct draft *draft, const struct rename *rename)
{
	struct rename_fetch *waited = calloc(1, sizeof(*waited));
	if (!waited) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	waited->fetch.run = rename_fetched;
	waited->from_dir = rename->from_dir;
	waited->to_dir = rename->to_dir;
	strcpy(waited->from, rename->from);
	strcpy(waited->to, rename->to);
	draft_fetch(fs, req, draft, &waited->fetch);
}

static struct draft *find_source(const struct rename *rename)
{
	return draft_find(rename->from_dir->queue, new_dir_priority(rename->from_dir), rename->from);
}

/*
 * close() returns before the kernel has sent its RELEASE: whoever renames then must wait for the outcome as well (P2).
 * The ordinary file, if its writer has closed it: a reference, or NULL. No lock.
 */
static struct draft *find_closed(struct fs *fs, const struct rename *rename)
{
	fs_lock(fs);
	struct draft *draft = find_source(rename);
	bool is_open = draft && draft->state == DRAFT_DOT && draft->handles == 1;
	if (!is_open || rename->to[0] == '.') {
		fs_unlock(fs);
		return NULL;
	}
	draft_ref(draft);
	struct writers writers = draft->writers;
	uint64_t ino = node_number(fs, draft, VIEW_ONLY);
	fs_unlock(fs);
	if (complete_is_let_go(&writers, ino))
		return draft;
	fs_lock(fs);
	draft_unref(draft);
	fs_unlock(fs);
	return NULL;
}

/* enum further, or -errno. (locked) */
static int rename_locked(struct draft *draft, bool closed, struct queue *queue, int priority, const char *name)
{
	if (!draft || !queue->listed)
		return -ENOENT;
	if (draft->state == DRAFT_QUEUED)
		return ASK;
	return name[0] == '.' ? rename_to_dot(draft, queue, priority, name)
	                      : rename_to_message(draft, closed, queue, priority, name);
}

static void new_rename(struct fs *fs, fuse_req_t req, const struct rename *rename)
{
	if (rename->to_dir->ops != &new_dir_ops) {
		fuse_reply_err(req, EPERM);
		return;
	}
	struct queue *queue = rename->to_dir->queue;
	int priority = new_dir_priority(rename->to_dir);

	struct draft *closed = find_closed(fs, rename);
	fs_lock(fs);
	struct draft *draft = find_source(rename);
	bool away = draft && rename->to[0] != '.' && draft_is_away(draft);
	int result = away ? DONE : rename_locked(draft, draft == closed, queue, priority, rename->to);
	if (draft)
		draft_ref(draft);
	if (closed)
		draft_unref(closed);
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + queue->settings.rename_timeout_ms;
	fs_unlock(fs);

	if (away)
		fetch_and_rename(fs, req, draft, rename);
	else if (result == ASK)
		draft_move_queued(fs, req, draft, queue, priority, rename->to);
	else if (result == SEND)
		draft_send(fs, draft, park(fs, req, deadline_ms + DRAFT_STORE_MS, INTERRUPT_WHEN_DYING, NULL, NULL),
		           deadline_ms);
	else
		fuse_reply_err(req, -result);
	if (draft) {
		fs_lock(fs);
		draft_unref(draft);
		fs_unlock(fs);
	}
}

const struct node_ops new_dir_ops = {
    .mode = S_IFDIR | 0700,
    .entry_timeout = 1.0,
    .attr_timeout = 1.0,
    .child = new_child,
    .list = new_list,
    .create = new_create,
    .unlink = new_unlink,
    .rename = new_rename,
};
