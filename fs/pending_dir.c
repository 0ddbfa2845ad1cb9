/* SPDX-License-Identifier: MIT */
/*
 * The name pending/X means two things. Untaken, it is anybody's to open, which takes it. Taken, it is still
 * found by the taker's family (family.h), so that the loop
 *
 *	for f in $(ls pending); do h <pending/$f && rm pending/$f || mv pending/$f retry/; done
 *
 * can settle what it took; everybody else finds it as well, but can neither open nor settle it (EBUSY), and
 * claimed/X is the name for those who know what they do. So a name's meaning differs by caller, and the kernel must
 * not remember it (entry_timeout 0).
 */
#include "pending_dir.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

#include "dir.h"
#include "delivery_file.h"
#include "error_file.h"
#include "failed_dir.h"
#include "family.h"
#include "message_file.h"
#include "moved.h"
#include "new_dir.h"
#include "queue.h"

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

/* Finds a delivery by its name in dir: a reference and the state it is in. */
static int find_in(const struct node *dir, const char *name, struct mqfs_delivery **ret_delivery,
                   enum mqfs_delivery_state *ret_state)
{
	struct mqfs_delivery *delivery = mqfs_consumer_find(dir->queue->consumer, name, ret_state);
	if (!delivery)
		return -ENOENT;
	if (dir->ops == &claimed_dir_ops && *ret_state != MQFS_DELIVERY_CLAIMED) {
		mqfs_delivery_unref(delivery);
		return -ENOENT;
	}
	*ret_delivery = delivery;
	return 0;
}

/* The same for a caller that wants to settle it, or why this one can't. Reads /proc: no lock. */
static int find_for(const struct node *dir, const char *name, pid_t tid, struct mqfs_delivery **ret_delivery,
                    enum mqfs_delivery_state *ret_state)
{
	struct mqfs_delivery *delivery;
	int result = find_in(dir, name, &delivery, ret_state);
	if (result < 0)
		return result;
	if (dir->ops == &pending_dir_ops && *ret_state == MQFS_DELIVERY_CLAIMED &&
	    !is_family(dir->queue, delivery, tid)) {
		mqfs_delivery_unref(delivery);
		return -EBUSY;
	}
	*ret_delivery = delivery;
	return 0;
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

	/* Everybody finds it: who moves claimed/X to pending/ looks here first. */
	int result = find_in(dir, name, &delivery, &state);
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
	if (view == VIEW_PEEK)
		mqfs_consumer_peek(queue->consumer, state, add_delivery, &add);
	else
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
		dir_reply_opendir(wait->fs, req, wait->node, &wait->fi);
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

/*
 * An rm or a mv. Forwarding waits for the broker, and after a lost connection every outcome waits for the disk (C9).
 * All else is answered at once and never parked: so it is begun first, and of the parking and the completion whoever
 * comes second answers.
 */
struct settling {
	struct fs *fs;
	ticket_t ticket;
	atomic_bool met;
	int result;
	struct queue *queue; /* whose directory a mv leads to, a reference; NULL: what has no name there */
	const void *dir;
	mqfs_name_t name;
};

static void settling_free(struct settling *settling)
{
	if (settling->queue)
		queue_unref(settling->queue);
	free(settling);
}

static void show_moved(const struct settling *settling)
{
	if (settling->result == 0 && settling->queue)
		moved_add(settling->fs, settling->queue, settling->dir, settling->name, S_IFREG);
}

static void settling_answer(struct settling *settling)
{
	show_moved(settling);
	FAILPOINT(fs_forward_answering);
	unpark_error(settling->fs, settling->ticket, -settling->result);
	FAILPOINT(fs_forward_answered);
	settling_free(settling);
}

static void settled(void *arg, int result, const char *reason)
{
	(void)reason;
	struct settling *settling = arg;
	settling->result = result;
	if (atomic_exchange(&settling->met, true))
		settling_answer(settling);
}

/* begun: 0 or -errno, the outcome; 1: settled() is called. */
static void settling_reply(struct settling *settling, fuse_req_t req, int begun, int64_t deadline_ms)
{
	if (begun == 1) {
		settling->ticket = park(settling->fs, req, deadline_ms + 100, INTERRUPT_WHEN_DYING, NULL, NULL);
		if (atomic_exchange(&settling->met, true))
			settling_answer(settling);
		return;
	}
	settling->result = begun;
	show_moved(settling);
	settling_free(settling);
	fuse_reply_err(req, -begun);
	FAILPOINT(fs_settle_answered);
}

static struct settling *settling_new(struct fs *fs, struct queue *queue, int64_t *ret_deadline_ms)
{
	struct settling *settling = calloc(1, sizeof(*settling));
	if (!settling)
		return NULL;
	settling->fs = fs;
	fs_lock(fs);
	*ret_deadline_ms = mqfs_clock_monotonic_ms() + queue->settings.rename_timeout_ms;
	fs_unlock(fs);
	return settling;
}

static int unlink_delivery(struct queue *queue, struct mqfs_delivery *delivery, enum mqfs_delivery_state state,
                           struct settling *settling)
{
	if (state == MQFS_DELIVERY_PENDING)
		return -EPERM;
	return mqfs_consumer_settle_durably(queue->consumer, delivery, state, MQFS_SETTLE_ACK, settled, settling);
}

static void delivery_unlink(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	pid_t tid = fuse_req_ctx(req)->pid;
	struct mqfs_delivery *delivery = NULL;
	enum mqfs_delivery_state state;
	int64_t deadline_ms;
	struct settling *settling = settling_new(fs, dir->queue, &deadline_ms);
	if (!settling) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	int result = find_for(dir, name, tid, &delivery, &state);
	if (result == 0) {
		result = unlink_delivery(dir->queue, delivery, state, settling);
	} else if (result == -ENOENT) {
		result = find_error_for(dir, name, tid, &delivery);
		if (result == 0)
			result = mqfs_consumer_set_error(dir->queue->consumer, delivery, "", 0);
	}
	mqfs_delivery_unref(delivery);
	settling_reply(settling, req, result, deadline_ms);
}

/* Published and confirmed in another queue, then acknowledged here (C5). */
static int forward(const struct rename *rename, struct mqfs_delivery *delivery, enum mqfs_delivery_state state,
                   int64_t deadline_ms, struct settling *settling)
{
	const struct node *to = rename->to_dir;
	int result = mqfs_consumer_forward(rename->from_dir->queue->consumer, delivery, state, to->queue->name,
	                                   new_dir_priority(to), deadline_ms, settled, settling);
	return result < 0 ? result : 1;
}

/* Everything but a forward. */
static int settle_by_rename(const struct rename *rename, struct mqfs_delivery *delivery, enum mqfs_delivery_state state,
                            pid_t tid, struct settling *settling)
{
	struct queue *queue = rename->from_dir->queue;
	const struct node *to = rename->to_dir;
	if (to->queue != queue)
		return -EPERM;
	if (to->ops == &failed_dir_ops) {
		bool retry = to->object == &queue->slots[SLOT_RETRY];
		return mqfs_consumer_settle_durably(queue->consumer, delivery, state,
		                                    retry ? MQFS_SETTLE_RETRY : MQFS_SETTLE_BURY, settled, settling);
	}
	/* Within the window a message keeps its name. */
	if (strcmp(rename->from, rename->to) != 0)
		return -EINVAL;
	if (to->ops == &pending_dir_ops && state == MQFS_DELIVERY_CLAIMED)
		return mqfs_consumer_settle(queue->consumer, delivery, MQFS_SETTLE_RELEASE);
	if (to->ops == &claimed_dir_ops)
		return state == MQFS_DELIVERY_PENDING ? delivery_file_take(queue, delivery, tid) : -EBUSY;
	return -EPERM;
}

static void delivery_rename(struct fs *fs, fuse_req_t req, const struct rename *rename)
{
	const struct node *to = rename->to_dir;
	pid_t tid = fuse_req_ctx(req)->pid;
	struct mqfs_delivery *delivery = NULL;
	enum mqfs_delivery_state state;
	int64_t deadline_ms;
	struct settling *settling = settling_new(fs, rename->from_dir->queue, &deadline_ms);
	if (!settling) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (to->queue && to->ops != &claimed_dir_ops) {
		settling->queue = queue_ref(to->queue);
		settling->dir = to->object;
		strcpy(settling->name, rename->to);
	}
	int result = find_for(rename->from_dir, rename->from, tid, &delivery, &state);
	if (result == 0 && to->ops == &new_dir_ops)
		result = forward(rename, delivery, state, deadline_ms, settling);
	else if (result == 0)
		result = settle_by_rename(rename, delivery, state, tid, settling);
	mqfs_delivery_unref(delivery);
	settling_reply(settling, req, result, deadline_ms);
}

const struct node_ops pending_dir_ops = {
    .mode = S_IFDIR | 0700,
    .entry_timeout = 1.0,
    .attr_timeout = 1.0,
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
    .attr_timeout = 1.0,
    .child = delivery_child,
    .list = claimed_list,
    .lookup = delivery_lookup,
    .unlink = delivery_unlink,
    .rename = delivery_rename,
};
