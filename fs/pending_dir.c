/* SPDX-License-Identifier: MIT */
/*
 * The name pending/X means two things. Untaken, it is anybody's to open, which takes it. Taken, it is still
 * found by the taker's family (family.h), so that the loop
 *
 *	for f in $(ls pending); do h <pending/$f && rm pending/$f || mv pending/$f retry/; done
 *
 * can settle what it took; everybody else's look-up fails with EBUSY, whatever tool asks, and claimed/X is the name
 * for those who know what they do. So a name's meaning differs by caller, and the kernel must not remember it
 * (entry_timeout 0).
 */
#include "pending_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/clock.h>

#include "error_file.h"
#include "failed_dir.h"
#include "family.h"
#include "housekeeping.h"
#include "message_file.h"
#include "moved.h"
#include "new_dir.h"
#include "ops.h"
#include "proc.h"
#include "queue.h"

#define ABANDON_MS 2000 /* how long a killed taker's family may still settle (C3) */

static const struct node_ops delivery_file_ops;

struct delivery_handle {
	struct mqfs_delivery *delivery; /* a reference */
	bool took;                      /* this open took it */
	pid_t taker;
	int64_t claimed_us; /* which take of it */
	/* guarded by fs->lock */
	bool read_to_end;
	bool killed;
};

struct abandoned {
	struct mqfs_delivery *delivery; /* a reference */
	int64_t claimed_us;
	int64_t due_ms;
	struct abandoned *next;
};

/* --- who may use the name --- */

static void copy_family(struct mqfs_delivery *delivery, void *arg)
{
	struct family **family = arg;
	*family = family_ref(delivery->owner);
}

/* Reads /proc: no lock. */
static bool is_family(struct queue *queue, struct mqfs_delivery *delivery, pid_t tid)
{
	struct family *family = NULL;
	mqfs_consumer_with(queue->consumer, delivery, copy_family, &family);
	bool included = family_includes(family, tid);
	family_unref(family);
	return included;
}

/*
 * Finds a delivery by its name in dir for the caller: a reference and the state it is in, or why the caller can't have it.
 * Reads /proc: no lock.
 */
static int find_for(const struct node *dir, const char *name, pid_t tid, struct mqfs_delivery **ret_delivery,
                    enum mqfs_delivery_state *ret_state)
{
	struct mqfs_delivery *delivery = mqfs_consumer_find(dir->queue->consumer, name, ret_state);
	if (!delivery)
		return -ENOENT;
	int result = 0;
	if (dir->ops == &claimed_dir_ops && *ret_state != MQFS_DELIVERY_CLAIMED)
		result = -ENOENT;
	else if (dir->ops == &pending_dir_ops && *ret_state == MQFS_DELIVERY_CLAIMED &&
	         !is_family(dir->queue, delivery, tid))
		result = -EBUSY;
	if (result < 0)
		mqfs_delivery_unref(delivery);
	else
		*ret_delivery = delivery;
	return result;
}

/* "X.error" of the message X: X's delivery. */
static int find_error_for(const struct node *dir, const char *name, pid_t tid, struct mqfs_delivery **ret_delivery)
{
	mqfs_name_t stem;
	enum mqfs_delivery_state state;
	size_t length = strlen(name), suffix = strlen(ERROR_SUFFIX);
	if (length <= suffix || length >= sizeof(stem) || strcmp(name + length - suffix, ERROR_SUFFIX) != 0)
		return -ENOENT;
	memcpy(stem, name, length - suffix);
	stem[length - suffix] = '\0';
	return find_for(dir, stem, tid, ret_delivery, &state);
}

/* --- directories --- */

static int node_for(struct fs *fs, struct node *dir, const struct node_ops *ops, struct mqfs_delivery *delivery,
                    enum view view, struct node **ret_node)
{
	*ret_node = tree_node(fs, ops, dir->queue, delivery, view);
	return *ret_node ? 0 : -ENOMEM;
}

static enum view view_of(const struct node *dir)
{
	return dir->ops == &claimed_dir_ops ? VIEW_CLAIMED : VIEW_PENDING;
}

static void delivery_lookup(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	pid_t tid = fuse_req_ctx(req)->pid;
	struct mqfs_delivery *delivery;
	enum mqfs_delivery_state state;
	const struct node_ops *ops = &delivery_file_ops;
	enum view view = view_of(dir);
	struct node *node;

	int result = find_for(dir, name, tid, &delivery, &state);
	if (result == -ENOENT) {
		result = find_error_for(dir, name, tid, &delivery);
		ops = &error_file_ops;
		view = VIEW_ERROR;
	}
	if (result == 0) {
		fs_lock(fs);
		result = node_for(fs, dir, ops, delivery, view, &node);
		fs_unlock(fs);
		mqfs_delivery_unref(delivery);
	} else if (result == -ENOENT) {
		fs_lock(fs);
		result = moved_child(fs, dir, name, &node);
		fs_unlock(fs);
	}
	if (result == 0)
		reply_entry(fs, req, node);
	else
		fuse_reply_err(req, -result);
}

/* For listings, which name only what everybody may see. (locked) */
static int delivery_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)tid;
	enum mqfs_delivery_state state;
	struct mqfs_delivery *delivery = mqfs_consumer_find(dir->queue->consumer, name, &state);
	bool claimed = dir->ops == &claimed_dir_ops;
	int result = -ENOENT;
	if (delivery && claimed == (state == MQFS_DELIVERY_CLAIMED))
		result = node_for(fs, dir, &delivery_file_ops, delivery, view_of(dir), ret_node);
	mqfs_delivery_unref(delivery);
	return result;
}

struct add_to_listing {
	struct fs *fs;
	struct listing *listing;
	enum view view;
	mode_t type;
};

static void add_delivery(struct mqfs_delivery *delivery, void *arg)
{
	const struct add_to_listing *add = arg;
	listing_add(add->listing, delivery->name, node_number(add->fs, delivery, add->view), add->type);
}

void pending_add_to_listing(struct fs *fs, struct queue *queue, enum mqfs_delivery_state state, enum view view,
                            mode_t type, struct listing *listing)
{
	struct add_to_listing add = {fs, listing, view, type};
	mqfs_consumer_list(queue->consumer, state, add_delivery, &add);
}

static void pending_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	pending_add_to_listing(fs, dir->queue, MQFS_DELIVERY_PENDING, VIEW_PENDING, S_IFREG, listing);
}

static void claimed_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	pending_add_to_listing(fs, dir->queue, MQFS_DELIVERY_CLAIMED, VIEW_CLAIMED, S_IFREG, listing);
}

/* The first look at pending/ starts consuming and waits a little, so that it is not empty (C1). */
struct stock_wait {
	struct mqfs_waiter waiter;
	struct fs *fs;
	ticket_t ticket;
	struct queue *queue; /* a reference: the wait may outlast the request */
	struct node *node;   /* the kernel keeps it while its OPENDIR is unanswered */
	struct fuse_file_info fi;
};

static void stocked(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	(void)result, (void)delivery;
	struct stock_wait *wait = (struct stock_wait *)waiter;
	fuse_req_t req = unpark(wait->fs, wait->ticket);
	if (req)
		ops_reply_opendir(wait->fs, req, wait->node, &wait->fi);
	queue_unref(wait->queue);
	free(wait);
}

static void pending_opendir(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct stock_wait *wait = calloc(1, sizeof(*wait));
	if (!wait) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	wait->waiter.done = stocked;
	wait->fs = fs;
	wait->queue = queue_ref(node->queue);
	wait->node = node;
	wait->fi = *fi;
	wait->ticket = park(fs, req, mqfs_clock_monotonic_ms() + 2000, INTERRUPT_WHEN_DYING, NULL, NULL);
	if (mqfs_consumer_wait_stocked(node->queue->consumer, &wait->waiter) == 1)
		stocked(&wait->waiter, 0, NULL);
}

/* --- settling by name --- */

static void delivery_unlink(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	(void)fs;
	pid_t tid = fuse_req_ctx(req)->pid;
	struct mqfs_consumer *consumer = dir->queue->consumer;
	struct mqfs_delivery *delivery = NULL;
	enum mqfs_delivery_state state;

	int result = find_for(dir, name, tid, &delivery, &state);
	if (result == 0) {
		result = state == MQFS_DELIVERY_PENDING ? -EPERM
		                                        : mqfs_consumer_settle(consumer, delivery, MQFS_SETTLE_ACK);
	} else if (result == -ENOENT) {
		result = find_error_for(dir, name, tid, &delivery);
		if (result == 0)
			result = mqfs_consumer_set_error(consumer, delivery, "", 0);
	}
	mqfs_delivery_unref(delivery);
	fuse_reply_err(req, -result);
}

static int take_for(struct queue *queue, struct mqfs_delivery *delivery, pid_t tid)
{
	char claimed_by[64] = "unknown";
	struct family *family = family_of(tid);
	if (family)
		family_describe(family, claimed_by, sizeof(claimed_by));
	int result = mqfs_consumer_take(queue->consumer, delivery, claimed_by, family, family_unref);
	if (result < 0)
		family_unref(family);
	return result;
}

struct forward {
	struct fs *fs;
	ticket_t ticket;
	struct queue *queue; /* where to; a reference */
	const void *dir;
	mqfs_name_t name;
};

static void forwarded(void *arg, int result, const char *reason)
{
	(void)reason;
	struct forward *forward = arg;
	if (result == 0)
		moved_add(forward->fs, forward->queue, forward->dir, forward->name, S_IFREG);
	unpark_error(forward->fs, forward->ticket, -result);
	queue_unref(forward->queue);
	free(forward);
}

/* Published and confirmed in another queue, then acknowledged here: the one mv that waits (C5). */
static void forward_to(struct fs *fs, fuse_req_t req, const struct rename *rename, struct mqfs_delivery *delivery)
{
	struct queue *queue = rename->from_dir->queue;
	const struct node *new_dir = rename->to_dir;
	struct forward *forward = malloc(sizeof(*forward));
	if (!forward) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fs_lock(fs);
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + queue->settings.rename_timeout_ms;
	fs_unlock(fs);
	ticket_t ticket = park(fs, req, deadline_ms + 100, INTERRUPT_WHEN_DYING, NULL, NULL);
	*forward = (struct forward){fs, ticket, queue_ref(new_dir->queue), new_dir->object, ""};
	strcpy(forward->name, rename->to);
	int result = mqfs_consumer_forward(queue->consumer, delivery, new_dir->queue->name, new_dir_priority(new_dir),
	                                   deadline_ms, forwarded, forward);
	if (result < 0) {
		unpark_error(fs, ticket, -result);
		queue_unref(forward->queue);
		free(forward);
	}
}

/* Everything but a forward: 0 or -errno. */
static int settle_by_rename(struct fs *fs, const struct rename *rename, struct mqfs_delivery *delivery,
                            enum mqfs_delivery_state state, pid_t tid)
{
	(void)fs;
	struct queue *queue = rename->from_dir->queue;
	const struct node *to = rename->to_dir;
	if (to->queue != queue)
		return -EPERM;
	if (to->ops == &failed_dir_ops) {
		bool retry = to->object == &queue->slots[SLOT_RETRY];
		return mqfs_consumer_settle(queue->consumer, delivery, retry ? MQFS_SETTLE_RETRY : MQFS_SETTLE_BURY);
	}
	/* Within the window a message keeps its name. */
	if (strcmp(rename->from, rename->to) != 0)
		return -EINVAL;
	if (to->ops == &pending_dir_ops && state == MQFS_DELIVERY_CLAIMED)
		return mqfs_consumer_settle(queue->consumer, delivery, MQFS_SETTLE_RELEASE);
	if (to->ops == &claimed_dir_ops)
		return state == MQFS_DELIVERY_PENDING ? take_for(queue, delivery, tid) : -EBUSY;
	return -EPERM;
}

static int settle_and_show(struct fs *fs, const struct rename *rename, struct mqfs_delivery *delivery,
                           enum mqfs_delivery_state state, pid_t tid)
{
	int result = settle_by_rename(fs, rename, delivery, state, tid);
	if (result == 0 && rename->to_dir->ops != &claimed_dir_ops)
		moved_add(fs, rename->to_dir->queue, rename->to_dir->object, rename->to, S_IFREG);
	return result;
}

static void delivery_rename(struct fs *fs, fuse_req_t req, const struct rename *rename)
{
	pid_t tid = fuse_req_ctx(req)->pid;
	struct mqfs_delivery *delivery;
	enum mqfs_delivery_state state;
	int result = find_for(rename->from_dir, rename->from, tid, &delivery, &state);
	if (result < 0) {
		fuse_reply_err(req, -result);
		return;
	}
	if (rename->to_dir->ops == &new_dir_ops)
		forward_to(fs, req, rename, delivery);
	else
		fuse_reply_err(req, -settle_and_show(fs, rename, delivery, state, tid));
	mqfs_delivery_unref(delivery);
}

/* --- a delivery as a file --- */

static void delivery_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	const struct mqfs_delivery *delivery = node->object;
	st->st_size = (off_t)delivery->message->body->bytes;
	message_times(delivery, st);
}

static void copy_claimed(struct mqfs_delivery *delivery, void *arg)
{
	*(int64_t *)arg = delivery->claimed_us;
}

/* Opening to read takes what is pending (C3); `touch` and the like open to write, and take nothing. */
static int open_takes(struct fs *fs, struct node *node, int flags, pid_t tid, struct delivery_handle *handle)
{
	struct queue *queue = node->queue;
	struct mqfs_delivery *delivery = handle->delivery;
	fs_lock(fs);
	bool on_open = queue->settings.take_on == MQFS_TAKE_ON_OPEN;
	fs_unlock(fs);
	if ((flags & O_ACCMODE) == O_WRONLY || (!on_open && mqfs_consumer_state(queue->consumer, delivery) ==
	                                                            MQFS_DELIVERY_PENDING))
		return 0;
	int result = take_for(queue, delivery, tid);
	if (result < 0)
		return result;
	handle->took = true;
	handle->taker = proc_tgid(tid);
	mqfs_consumer_with(queue->consumer, delivery, copy_claimed, &handle->claimed_us);
	return 0;
}

static void delivery_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct delivery_handle *handle = calloc(1, sizeof(*handle));
	int result = handle ? 0 : -ENOMEM;
	if (handle) {
		handle->delivery = mqfs_delivery_ref(node->object);
		if (fi->flags & O_TRUNC)
			result = -EPERM;
		else if (node->view == VIEW_PENDING)
			result = open_takes(fs, node, fi->flags, fuse_req_ctx(req)->pid, handle);
	}
	if (result < 0) {
		if (handle)
			mqfs_delivery_unref(handle->delivery);
		free(handle);
		fuse_reply_err(req, -result);
		return;
	}
	fs_lock(fs);
	/* ack-on=read needs to see how far its reader got, which the page cache would hide. */
	fi->direct_io = node->queue->settings.ack_on == MQFS_ACK_ON_READ;
	fs_unlock(fs);
	fi->keep_cache = !fi->direct_io;
	fi->fh = (uintptr_t)handle;
	if (fuse_reply_open(req, fi) != 0)
		delivery_file_ops.release(fs, node, fi);
}

static void delivery_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset,
                          struct fuse_file_info *fi)
{
	(void)node;
	struct delivery_handle *handle = (struct delivery_handle *)(uintptr_t)fi->fh;
	const struct mqfs_body *body = handle->delivery->message->body;
	if ((size_t)offset + size >= body->bytes) {
		fs_lock(fs);
		handle->read_to_end = true;
		fs_unlock(fs);
	}
	reply_slice(req, body->data, body->bytes, size, offset);
}

/* The taker was killed with the file open: its family has a moment to settle, then it goes back. */
static void note_abandoned(struct fs *fs, struct queue *queue, const struct delivery_handle *handle)
{
	struct abandoned *abandoned = malloc(sizeof(*abandoned));
	if (!abandoned)
		return; /* then claim-timeout gives it back */
	*abandoned = (struct abandoned){
		.delivery = mqfs_delivery_ref(handle->delivery),
		.claimed_us = handle->claimed_us,
		.due_ms = mqfs_clock_monotonic_ms() + ABANDON_MS,
	};
	fs_lock(fs);
	LL_APPEND(queue->abandoned, abandoned);
	fs_unlock(fs);
	housekeeping_wake(fs, abandoned->due_ms);
}

static void delivery_flush(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct delivery_handle *handle = (struct delivery_handle *)(uintptr_t)fi->fh;
	pid_t tid = fuse_req_ctx(req)->pid;
	int signal = 0;
	/* SIGPIPE is how `cat f | head -1` ends well. */
	if (handle->took && tid != 0 && proc_killed(tid, &signal) && signal != SIGPIPE &&
	    proc_tgid(tid) == handle->taker) {
		fs_lock(fs);
		bool first = !handle->killed;
		handle->killed = true;
		fs_unlock(fs);
		if (first)
			note_abandoned(fs, node->queue, handle);
	}
	fuse_reply_err(req, 0);
}

static void delivery_release(struct fs *fs, struct node *node, struct fuse_file_info *fi)
{
	struct delivery_handle *handle = (struct delivery_handle *)(uintptr_t)fi->fh;
	fs_lock(fs);
	bool acknowledge =
		handle->read_to_end && !handle->killed && node->queue->settings.ack_on == MQFS_ACK_ON_READ;
	fs_unlock(fs);
	if (acknowledge && mqfs_consumer_state(node->queue->consumer, handle->delivery) == MQFS_DELIVERY_CLAIMED)
		mqfs_consumer_settle(node->queue->consumer, handle->delivery, MQFS_SETTLE_ACK);
	mqfs_delivery_unref(handle->delivery);
	free(handle);
}

/* `touch claimed/X`: the worker lives, the claim lasts (C8). Nothing else of a message can be changed. */
static void delivery_setattr(struct fs *fs, fuse_req_t req, struct node *node, const struct stat *st, int to_set)
{
	(void)st;
	struct stat attr;
	int result = 0;
	if (to_set & (FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
		result = -EPERM;
	else if (mqfs_consumer_state(node->queue->consumer, node->object) == MQFS_DELIVERY_CLAIMED)
		result = mqfs_consumer_extend(node->queue->consumer, node->object);
	if (result < 0) {
		fuse_reply_err(req, -result);
		return;
	}
	fs_lock(fs);
	node_attr(fs, node, &attr);
	fs_unlock(fs);
	fuse_reply_attr(req, &attr, 0);
}

/* --- housekeeping --- */

static struct abandoned *take_due(struct fs *fs, struct queue *queue, int64_t now_ms, int64_t *ret_next)
{
	fs_lock(fs);
	struct abandoned *first = queue->abandoned; /* all wait equally long: in order of time */
	if (first && first->due_ms <= now_ms) {
		queue->abandoned = first->next;
	} else {
		*ret_next = first ? first->due_ms : MQFS_NEVER;
		first = NULL;
	}
	fs_unlock(fs);
	return first;
}

int64_t pending_tick(struct fs *fs, struct queue *queue, int64_t now_ms)
{
	struct abandoned *abandoned;
	int64_t next = MQFS_NEVER;
	while ((abandoned = take_due(fs, queue, now_ms, &next))) {
		int64_t claimed_us = 0;
		mqfs_consumer_with(queue->consumer, abandoned->delivery, copy_claimed, &claimed_us);
		/* Not when it was given back and taken again meanwhile. */
		if (claimed_us == abandoned->claimed_us &&
		    mqfs_consumer_state(queue->consumer, abandoned->delivery) == MQFS_DELIVERY_CLAIMED)
			mqfs_consumer_settle(queue->consumer, abandoned->delivery, MQFS_SETTLE_ABANDON);
		mqfs_delivery_unref(abandoned->delivery);
		free(abandoned);
	}
	return next;
}

void pending_forget_abandoned(struct queue *queue)
{
	struct abandoned *each, *next;
	LL_FOREACH_SAFE(queue->abandoned, each, next)
	{
		mqfs_delivery_unref(each->delivery);
		free(each);
	}
	queue->abandoned = NULL;
}

static const struct node_ops delivery_file_ops = {
	.mode = S_IFREG | 0600,
	.attr = delivery_attr,
	.hold = message_hold,
	.drop = message_drop,
	.open = delivery_open,
	.read = delivery_read,
	.flush = delivery_flush,
	.release = delivery_release,
	.setattr = delivery_setattr,
	.getxattr = message_getxattr,
	.listxattr = message_listxattr,
};

const struct node_ops pending_dir_ops = {
	.mode = S_IFDIR | 0700,
	.entry_timeout = 1.0,
	.child = delivery_child,
	.list = pending_list,
	.lookup = delivery_lookup,
	.opendir = pending_opendir,
	.unlink = delivery_unlink,
	.rename = delivery_rename,
};

const struct node_ops claimed_dir_ops = {
	.mode = S_IFDIR | 0700,
	.entry_timeout = 1.0,
	.child = delivery_child,
	.list = claimed_list,
	.lookup = delivery_lookup,
	.unlink = delivery_unlink,
	.rename = delivery_rename,
};
