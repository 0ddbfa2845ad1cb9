/* SPDX-License-Identifier: MIT */
/*
 * One open serves one message. `claim` prints the name of a message that it has taken, `next` its body. The message
 * is the reader's when it has been told all of it: a `claim` whose reader ended before it had the whole name gives
 * back, and so does a `next` whose reader was not told the end of file (an empty answer) before it closed. A reader
 * that was killed over its message has failed once, or what kills its readers would come back for ever.
 *
 * Reads bypass the page cache: through it no INTERRUPT would arrive, and a second open would hang unkillably.
 */
#include "claim_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/consumer.h>
#include <mqfs/failpoint.h>

#include "delivery_file.h"
#include "family.h"
#include "housekeeping.h"
#include "notify.h"
#include "opened.h"
#include "proc.h"
#include "queue.h"

#define POLL_TOUCH_MS 5000

struct claim_handle {
	/* constant */
	struct mqfs_waiter waiter; /* first: the consumer gives back its address */
	struct fs *fs;
	struct queue *queue; /* a reference */
	bool next;           /* `next`, not `claim` */

	atomic_uint references; /* the open file's, and the wait's */

	/* guarded by fs->lock */
	bool waiting;
	bool given_up;                  /* the waiting READ is answered with an error */
	bool interruptible;             /* a READ is parked that abandoned() may end */
	ticket_t ticket;                /* the waiting READ */
	size_t size;                    /* how much it asked for */
	struct family *family;          /* of who waits; a reference */
	struct mqfs_delivery *delivery; /* a reference, once there is one */
	mqfs_name_t line;               /* claim: the name and a newline */
	size_t position;                /* how much of it the reader has */
	bool told_end;
	pid_t reader;  /* the process that has read last; 0: it can't be told */
	int killed_by; /* the signal that ends it */
};

struct poll_wait {
	struct claim_handle *handle; /* compared only */
	struct fuse_pollhandle *poll;
	struct poll_wait *next;
};

static void handle_unref(struct claim_handle *handle)
{
	if (atomic_fetch_sub(&handle->references, 1) != 1)
		return;
	mqfs_delivery_unref(handle->delivery);
	family_unref(handle->family);
	queue_unref(handle->queue);
	free(handle);
}

/* --- serving --- */

static const void *text_of(const struct claim_handle *handle, size_t *ret_bytes)
{
	const struct mqfs_body *body = handle->delivery->message->body;
	*ret_bytes = handle->next ? body->bytes : strlen(handle->line);
	return handle->next ? (const void *)body->data : handle->line;
}

/*
 * Answers a READ from what the handle has. The delivery is constant from here on. The reader may read on or close as
 * soon as the answer is out, so that what it has been told is noted before.
 */
static void serve(struct claim_handle *handle, fuse_req_t req, size_t size)
{
	struct fs *fs = handle->fs;
	size_t bytes, start;
	const char *text = text_of(handle, &bytes);
	fs_lock(fs);
	bool told_before = handle->told_end;
	start = handle->position;
	size_t part = bytes - start < size ? bytes - start : size;
	handle->position = start + part;
	if (part == 0 && size > 0)
		handle->told_end = true;
	fs_unlock(fs);

	if (fuse_reply_buf(req, part ? text + start : NULL, part) == 0)
		return;
	fs_lock(fs); /* the reader went away before it got this */
	handle->position = start;
	handle->told_end = told_before;
	fs_unlock(fs);
}

/* The delivery is the handle's and its reader's. (locked) */
static void attach(struct claim_handle *handle, struct mqfs_delivery *delivery)
{
	handle->delivery = delivery;
	snprintf(handle->line, sizeof(handle->line), "%.250s\n", delivery->name);
}

static void give_back(struct claim_handle *handle, struct mqfs_delivery *delivery)
{
	mqfs_consumer_settle(handle->queue->consumer, delivery, MQFS_SETTLE_RELEASE);
	mqfs_delivery_unref(delivery);
}

/* A wait has ended with a delivery (or an error): its reader gets it, if it is still there. Drops the wait's reference.
 */
static void wait_over(struct claim_handle *handle, int result, struct mqfs_delivery *delivery)
{
	struct fs *fs = handle->fs;
	fs_lock(fs);
	handle->waiting = false;
	ticket_t ticket = handle->ticket;
	size_t size = handle->size;
	struct family *family = handle->family;
	bool interruptible = handle->interruptible;
	handle->family = NULL;
	fs_unlock(fs);

	fuse_req_t req = unpark(fs, ticket);
	if (req && interruptible)
		handle_unref(handle); /* the parked request's: abandoned() will not run */
	if (req && delivery) {
		fs_lock(fs);
		attach(handle, delivery);
		fs_unlock(fs);
		mqfs_consumer_set_owner(handle->queue->consumer, delivery, family_ref(family), family_unref);
		FAILPOINT(fs_claim_taken);
		serve(handle, req, size);
	} else if (delivery) {
		give_back(handle, delivery);
	} else if (req) {
		fuse_reply_err(req, -result);
	}
	family_unref(family);
	handle_unref(handle);
}

static void waited(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	wait_over((struct claim_handle *)waiter, result, delivery);
}

/* The READ is being answered EINTR. Either this ends the wait, or waited() runs and finds nobody. */
static void abandoned(struct fs *fs, void *arg)
{
	struct claim_handle *handle = arg;
	fs_lock(fs);
	handle->given_up = true;
	fs_unlock(fs);
	if (mqfs_consumer_cancel_wait(handle->queue->consumer, &handle->waiter)) {
		fs_lock(fs);
		handle->waiting = false;
		fs_unlock(fs);
		handle_unref(handle); /* the wait's */
	}
	handle_unref(handle); /* the parked request's */
}

/* --- reading --- */

/* Parks the READ until there is a message, for as long as it takes or until any signal. */
static void wait_for_message(struct claim_handle *handle, fuse_req_t req, const char *claimed_by)
{
	struct fs *fs = handle->fs;
	struct mqfs_delivery *delivery = NULL;

	/* One reference for the parked request, one for the wait; this function keeps its own while it runs. */
	atomic_fetch_add(&handle->references, 3);
	ticket_t ticket = park(fs, req, MQFS_NEVER, INTERRUPT_ANY_SIGNAL, abandoned, handle);
	fs_lock(fs);
	handle->ticket = ticket;
	fs_unlock(fs);
	int result = mqfs_consumer_claim(handle->queue->consumer, claimed_by, true, &handle->waiter, &delivery);
	if (result != 0) {
		wait_over(handle, result, delivery);
	} else {
		/* The interrupt may have come before there was a wait to cancel. */
		fs_lock(fs);
		bool given_up = handle->given_up;
		fs_unlock(fs);
		if (given_up && mqfs_consumer_cancel_wait(handle->queue->consumer, &handle->waiter)) {
			fs_lock(fs);
			handle->waiting = false;
			fs_unlock(fs);
			handle_unref(handle);
		}
	}
	handle_unref(handle);
}

static void claim_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
	(void)node, (void)offset;
	struct claim_handle *handle = (struct claim_handle *)(uintptr_t)fi->fh;
	pid_t reader = proc_tgid(fuse_req_ctx(req)->pid);
	fs_lock(fs);
	bool served = handle->delivery, busy = handle->waiting, ending = handle->given_up;
	handle->reader = reader;
	if (!served && !busy) {
		handle->waiting = true;
		handle->given_up = false;
	}
	fs_unlock(fs);
	if (served) {
		/* Its reader may close it before serve() is through. */
		atomic_fetch_add(&handle->references, 1);
		serve(handle, req, size);
		handle_unref(handle);
		return;
	}
	if (busy) { /* another thread waits through the same open file; or a signal's wait is still being undone */
		fuse_reply_err(req, ending ? EINTR : EBUSY);
		return;
	}

	char claimed_by[64] = "unknown";
	struct family *family = family_of(fuse_req_ctx(req)->pid);
	if (family)
		family_describe(family, claimed_by, sizeof(claimed_by));
	fs_lock(fs);
	handle->interruptible = !(fi->flags & O_NONBLOCK);
	handle->size = size;
	family_unref(handle->family);
	handle->family = family;
	fs_unlock(fs);

	if (!(fi->flags & O_NONBLOCK)) {
		wait_for_message(handle, req, claimed_by);
		return;
	}
	struct mqfs_delivery *delivery = NULL;
	int result = mqfs_consumer_claim(handle->queue->consumer, claimed_by, false, &handle->waiter, &delivery);
	atomic_fetch_add(&handle->references, 1);
	ticket_t ticket = park(fs, req, MQFS_NEVER, INTERRUPT_WHEN_DYING, NULL, NULL);
	fs_lock(fs);
	handle->ticket = ticket;
	fs_unlock(fs);
	wait_over(handle, result, delivery);
}

static void forget_poll(struct queue *queue, struct claim_handle *handle)
{
	struct poll_wait *each, *next, *found = NULL;
	fs_lock(handle->fs);
	LL_FOREACH_SAFE(queue->polls, each, next)
	{
		if (each->handle == handle) {
			LL_DELETE(queue->polls, each);
			handle->fs->polls--;
			found = each;
			break;
		}
	}
	fs_unlock(handle->fs);
	if (found)
		fuse_pollhandle_destroy(found->poll);
	free(found);
}

static void drop(struct fs *fs, void *object)
{
	(void)fs;
	struct claim_handle *handle = object;
	forget_poll(handle->queue, handle);
	handle_unref(handle);
}

static void claim_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	if ((fi->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(req, EACCES);
		return;
	}
	struct claim_handle *handle = calloc(1, sizeof(*handle));
	if (!handle) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	atomic_init(&handle->references, 1);
	handle->waiter.done = waited;
	handle->fs = fs;
	handle->queue = queue_ref(node->queue);
	handle->next = node->object == &node->queue->slots[SLOT_NEXT];
	fi->direct_io = 1;
	fi->nonseekable = 1;
	if (opened_reply(fs, req, fi, handle, drop) != 0)
		claim_file_ops.release(fs, node, fi);
}

static void claim_flush(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	(void)node;
	struct claim_handle *handle = (struct claim_handle *)(uintptr_t)fi->fh;
	pid_t tid = fuse_req_ctx(req)->pid;
	int signal;
	fs_lock(fs);
	pid_t reader = handle->reader;
	fs_unlock(fs);
	/* Not when it was a child that has the descriptor too. */
	if (reader != 0 && proc_killed(tid, &signal) && proc_tgid(tid) == reader) {
		fs_lock(fs);
		handle->killed_by = signal;
		fs_unlock(fs);
	}
	fuse_reply_err(req, 0);
}

/* What the reader's end makes of the message; -1: it is the reader's. (locked) */
static int outcome_of(const struct claim_handle *handle)
{
	bool failed = handle->killed_by && handle->killed_by != SIGPIPE;
	if (handle->next && handle->told_end && !handle->killed_by)
		return MQFS_SETTLE_ACK;
	if (handle->next)
		return failed && (handle->position > 0 || handle->told_end) ? MQFS_SETTLE_ABANDON : MQFS_SETTLE_RELEASE;
	if (handle->position < strlen(handle->line))
		return MQFS_SETTLE_RELEASE;
	/* Who was told that it is the whole name may have passed it on. */
	if (handle->told_end || !handle->killed_by)
		return -1;
	return failed ? MQFS_SETTLE_ABANDON : MQFS_SETTLE_RELEASE;
}

static void claim_release(struct fs *fs, struct node *node, struct fuse_file_info *fi)
{
	struct claim_handle *handle = (struct claim_handle *)(uintptr_t)fi->fh;
	fs_lock(fs);
	struct mqfs_delivery *delivery = handle->delivery;
	int outcome = delivery ? outcome_of(handle) : -1;
	fs_unlock(fs);
	if (outcome == MQFS_SETTLE_ABANDON && !handle->next)
		delivery_file_abandon(node->queue, delivery);
	else if (outcome >= 0)
		mqfs_consumer_settle(node->queue->consumer, delivery, (enum mqfs_settlement)outcome);
	drop(fs, handle);
}

/* --- polling --- */

static void claim_poll(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi,
                       struct fuse_pollhandle *poll)
{
	struct claim_handle *handle = (struct claim_handle *)(uintptr_t)fi->fh;
	struct queue *queue = node->queue;
	forget_poll(queue, handle);
	mqfs_consumer_touch(queue->consumer);
	if (poll) {
		struct poll_wait *wait = malloc(sizeof(*wait));
		if (!wait) {
			fuse_pollhandle_destroy(poll);
			fuse_reply_err(req, ENOMEM);
			return;
		}
		*wait = (struct poll_wait){.handle = handle, .poll = poll};
		fs_lock(fs);
		LL_PREPEND(queue->polls, wait);
		fs->polls++;
		fs_unlock(fs);
		housekeeping_wake(fs, mqfs_clock_monotonic_ms() + POLL_TOUCH_MS);
	}
	/* Asked after the handle is known, so that what arrives in between notifies. */
	fs_lock(fs);
	bool served = handle->delivery;
	fs_unlock(fs);
	fuse_reply_poll(req, served || mqfs_consumer_has_pending(queue->consumer) ? POLLIN | POLLRDNORM : 0);
}

/* (locked) Takes the waits of every queue in which something is pending. */
static struct poll_wait *take_ready_polls(struct fs *fs)
{
	struct poll_wait *ready = NULL, *last;
	struct queue *queue, *next;
	if (fs->polls == 0)
		return NULL;
	HASH_ITER(hh, fs->queues, queue, next)
	{
		if (!queue->polls || !mqfs_consumer_has_pending(queue->consumer))
			continue;
		for (last = queue->polls, fs->polls--; last->next; last = last->next)
			fs->polls--;
		last->next = ready;
		ready = queue->polls;
		queue->polls = NULL;
	}
	return ready;
}

void claim_file_wake_polls(struct fs *fs)
{
	struct poll_wait *each, *next;
	fs_lock(fs);
	struct poll_wait *ready = take_ready_polls(fs);
	fs_unlock(fs);
	LL_FOREACH_SAFE(ready, each, next)
	{
		notify_poll(each->poll);
		free(each);
	}
}

int64_t claim_file_tick(struct fs *fs, struct queue *queue, int64_t now_ms)
{
	fs_lock(fs);
	bool polled = queue->polls;
	fs_unlock(fs);
	if (!polled)
		return MQFS_NEVER;
	mqfs_consumer_touch(queue->consumer);
	return now_ms + POLL_TOUCH_MS;
}

const struct node_ops claim_file_ops = {
    .mode = S_IFREG | 0400,
    .entry_timeout = 1.0,
    .open = claim_open,
    .read = claim_read,
    .flush = claim_flush,
    .release = claim_release,
    .poll = claim_poll,
};
