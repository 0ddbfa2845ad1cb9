/* SPDX-License-Identifier: MIT */
#include "delivery_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <utlist.h>

#include <mqfs/clock.h>

#include "family.h"
#include "housekeeping.h"
#include "message_file.h"
#include "opened.h"
#include "proc.h"
#include "queue.h"

#define ABANDON_MS 2000 /* how long a killed taker's family may still settle (C3) */

struct delivery_handle {
	struct mqfs_delivery *delivery; /* a reference */
	bool took;                      /* this open took it */
	pid_t taker;
	int64_t claimed_us; /* which take of it */
	bool acknowledges;  /* C10: it was taken then, and ack-on=read */
	/* guarded by fs->lock */
	bool read_to_end;
	bool killed;    /* somebody who had it open was */
	bool abandoned; /* it was the taker */
};

struct abandoned {
	struct mqfs_delivery *delivery; /* a reference */
	int64_t claimed_us;
	int64_t due_ms;
	struct abandoned *next;
};

int delivery_file_take(struct queue *queue, struct mqfs_delivery *delivery, pid_t tid)
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

static void copy_take(struct mqfs_delivery *delivery, void *arg)
{
	struct delivery_handle *handle = arg;
	handle->claimed_us = delivery->claimed_us;
	handle->taker = delivery->owner ? family_taker(delivery->owner) : 0;
}

/* Opening to read takes what is pending (C3); `touch` and the like open to write, and take nothing. */
static int open_takes(struct fs *fs, struct node *node, int flags, pid_t tid, struct delivery_handle *handle)
{
	struct queue *queue = node->queue;
	struct mqfs_delivery *delivery = handle->delivery;
	fs_lock(fs);
	bool on_open = queue->settings.take_on == MQFS_TAKE_ON_OPEN;
	fs_unlock(fs);
	if ((flags & O_ACCMODE) == O_WRONLY ||
	    (!on_open && mqfs_consumer_state(queue->consumer, delivery) == MQFS_DELIVERY_PENDING))
		return 0;
	int result = delivery_file_take(queue, delivery, tid);
	if (result < 0)
		return result;
	handle->took = true;
	mqfs_consumer_with(queue->consumer, delivery, copy_take, handle);
	return 0;
}

static void drop(struct fs *fs, void *object)
{
	(void)fs;
	struct delivery_handle *handle = object;
	mqfs_delivery_unref(handle->delivery);
	free(handle);
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
	handle->acknowledges = fi->direct_io && (handle->took || node->view == VIEW_CLAIMED);
	fi->keep_cache = !fi->direct_io;
	if (opened_reply(fs, req, fi, handle, drop) != 0)
		delivery_file_ops.release(fs, node, fi);
}

static void delivery_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset,
                          struct fuse_file_info *fi)
{
	(void)node;
	struct delivery_handle *handle = (struct delivery_handle *)(uintptr_t)fi->fh;
	struct mqfs_body *body = handle->delivery->message->body;
	if ((size_t)offset + size >= body->bytes) {
		fs_lock(fs);
		handle->read_to_end = true;
		fs_unlock(fs);
	}
	reply_body(req, body, size, offset);
}

/* The taker was killed with the file open: its family has a moment to settle, then it goes back. */
static void note_abandoned(struct fs *fs, struct queue *queue, struct mqfs_delivery *delivery, int64_t claimed_us)
{
	struct abandoned *abandoned = malloc(sizeof(*abandoned));
	if (!abandoned)
		return; /* then claim-timeout gives it back */
	*abandoned = (struct abandoned){
	    .delivery = mqfs_delivery_ref(delivery),
	    .claimed_us = claimed_us,
	    .due_ms = mqfs_clock_monotonic_ms() + ABANDON_MS,
	};
	fs_lock(fs);
	LL_APPEND(queue->abandoned, abandoned);
	fs_unlock(fs);
	housekeeping_wake(fs, abandoned->due_ms);
}

void delivery_file_abandon(struct queue *queue, struct mqfs_delivery *delivery)
{
	int64_t claimed_us = 0;
	mqfs_consumer_with(queue->consumer, delivery, copy_claimed, &claimed_us);
	note_abandoned(queue->fs, queue, delivery, claimed_us);
}

static void delivery_flush(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct delivery_handle *handle = (struct delivery_handle *)(uintptr_t)fi->fh;
	pid_t tid = fuse_req_ctx(req)->pid;
	int signal = 0;
	/* SIGPIPE is how `cat f | head -1` ends well. */
	if ((handle->took || handle->acknowledges) && tid != 0 && proc_killed(tid, &signal) && signal != SIGPIPE) {
		bool taker = handle->took && proc_tgid(tid) == handle->taker;
		fs_lock(fs);
		bool first = taker && !handle->abandoned;
		handle->killed = true;
		handle->abandoned |= taker;
		fs_unlock(fs);
		if (first)
			note_abandoned(fs, node->queue, handle->delivery, handle->claimed_us);
	}
	fuse_reply_err(req, 0);
}

static void delivery_release(struct fs *fs, struct node *node, struct fuse_file_info *fi)
{
	struct delivery_handle *handle = (struct delivery_handle *)(uintptr_t)fi->fh;
	fs_lock(fs);
	bool acknowledge = handle->acknowledges && handle->read_to_end && !handle->killed;
	fs_unlock(fs);
	if (acknowledge && mqfs_consumer_state(node->queue->consumer, handle->delivery) == MQFS_DELIVERY_CLAIMED)
		mqfs_consumer_settle(node->queue->consumer, handle->delivery, MQFS_SETTLE_ACK);
	drop(fs, handle);
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
	fuse_reply_attr(req, &attr, delivery_file_ops.attr_timeout);
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

int64_t delivery_file_tick(struct fs *fs, struct queue *queue, int64_t now_ms)
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

void delivery_file_forget_abandoned(struct queue *queue)
{
	struct abandoned *each, *next;
	LL_FOREACH_SAFE(queue->abandoned, each, next)
	{
		mqfs_delivery_unref(each->delivery);
		free(each);
	}
	queue->abandoned = NULL;
}

const struct node_ops delivery_file_ops = {
    .mode = S_IFREG | 0600,
    .attr_timeout = 60, /* a message never changes */
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
