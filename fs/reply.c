/* SPDX-License-Identifier: MIT */
#include "reply.h"

#include <errno.h>
#include <stdlib.h>

#include <mqfs/message.h>

#include "fs.h"
#include "housekeeping.h"
#include "notify.h"
#include "proc.h"

/* How often a caller that was interrupted is looked at: a second, fatal signal sends no INTERRUPT. */
#define DYING_CHECK_MS 100

struct parked {
	ticket_t ticket;
	fuse_req_t req;
	pid_t tid;
	int64_t deadline_ms;
	enum interrupt interrupt;
	bool interrupted;
	bool holding; /* a directory */
	void (*abandoned)(struct fs *fs, void *arg);
	void *arg;
	void (*answer)(struct fs *fs, fuse_req_t req); /* at its deadline; NULL: ETIMEDOUT */
	UT_hash_handle hh;
};

static _Thread_local bool holding_now;

void park_holding(bool holding)
{
	holding_now = holding;
}

bool park_is_holding(void)
{
	return holding_now;
}

/* It is answered, or about to be. */
static void parked_free(struct fs *fs, struct parked *parked)
{
	if (parked && parked->holding)
		notify_release(fs);
	free(parked);
}

static struct parked *remove_locked(struct fs *fs, struct parked *parked)
{
	if (parked)
		HASH_DEL(fs->parked, parked);
	return parked;
}

static struct parked *remove_ticket(struct fs *fs, ticket_t ticket)
{
	struct parked *parked;
	pthread_mutex_lock(&fs->parked_lock);
	HASH_FIND(hh, fs->parked, &ticket, sizeof(ticket), parked);
	parked = remove_locked(fs, parked);
	pthread_mutex_unlock(&fs->parked_lock);
	return parked;
}

/* Answers what has been removed, on behalf of nobody: the deadline or an interrupt. What it waited for is over first:
 * the caller may ask again at once. */
static void abandon(struct fs *fs, struct parked *parked, int error)
{
	if (parked->abandoned)
		parked->abandoned(fs, parked->arg);
	fuse_reply_err(parked->req, error);
	parked_free(fs, parked);
}

/*
 * libfuse's worker holds a lock of the request's and a reference to it, so its address names it here, and it may be
 * answered from inside: fuse_reply_* takes the session's lock only. Called by park() itself, when the signal came
 * first, there is no such reference, and it would free the lock that libfuse holds; so what is not parked yet is not
 * found, and park() sees to it.
 */
static void interrupted(fuse_req_t req, void *data)
{
	struct fs *fs = data;
	struct parked *parked, *found = NULL;
	pid_t tid = fuse_req_ctx(req)->pid;
	bool dying = proc_dying(tid);

	pthread_mutex_lock(&fs->parked_lock);
	for (parked = fs->parked; parked && !found; parked = parked->hh.next) {
		if (parked->req == req)
			found = parked;
	}
	if (found && !dying && found->interrupt != INTERRUPT_ANY_SIGNAL) {
		found->interrupted = true;
		found = NULL;
	}
	remove_locked(fs, found);
	pthread_mutex_unlock(&fs->parked_lock);

	if (found)
		abandon(fs, found, EINTR);
	else
		housekeeping_wake(fs, mqfs_clock_monotonic_ms() + DYING_CHECK_MS);
}

static ticket_t park_as(struct fs *fs, struct parked wanted)
{
	fuse_req_t req = wanted.req;
	int64_t deadline_ms = wanted.deadline_ms;
	struct parked *parked = malloc(sizeof(*parked));
	if (!parked) {
		fuse_reply_err(req, ENOMEM);
		return 0;
	}
	*parked = wanted;
	parked->tid = fuse_req_ctx(req)->pid;
	parked->holding = holding_now;
	if (holding_now)
		notify_hold(fs);
	fuse_req_interrupt_func(req, interrupted, fs);
	pthread_mutex_lock(&fs->parked_lock);
	/* Both under the lock: libfuse notes a signal before it calls, so that one is either seen here or finds it. */
	bool came_first = parked->interrupted = fuse_req_interrupted(req);
	ticket_t ticket = parked->ticket = ++fs->last_ticket;
	HASH_ADD(hh, fs->parked, ticket, sizeof(parked->ticket), parked);
	pthread_mutex_unlock(&fs->parked_lock);

	/* The request may be answered by now. */
	if (came_first)
		housekeeping_wake(fs, mqfs_clock_monotonic_ms());
	else if (deadline_ms != MQFS_NEVER)
		housekeeping_wake(fs, deadline_ms);
	return ticket;
}

ticket_t park(struct fs *fs, fuse_req_t req, int64_t deadline_ms, enum interrupt interrupt,
              void (*abandoned)(struct fs *fs, void *arg), void *arg)
{
	return park_as(
	    fs,
	    (struct parked){
	        .req = req, .deadline_ms = deadline_ms, .interrupt = interrupt, .abandoned = abandoned, .arg = arg});
}

ticket_t park_until(struct fs *fs, fuse_req_t req, int64_t deadline_ms, void (*answer)(struct fs *fs, fuse_req_t req))
{
	return park_as(fs, (struct parked){.req = req, .deadline_ms = deadline_ms, .answer = answer});
}

fuse_req_t unpark(struct fs *fs, ticket_t ticket)
{
	struct parked *parked = remove_ticket(fs, ticket);
	fuse_req_t req = parked ? parked->req : NULL;
	parked_free(fs, parked);
	return req;
}

void unpark_error(struct fs *fs, ticket_t ticket, int error)
{
	fuse_req_t req = unpark(fs, ticket);
	if (req)
		fuse_reply_err(req, error);
}

static bool ends_wait(const struct parked *parked)
{
	return parked->interrupted && (parked->interrupt == INTERRUPT_ANY_SIGNAL || proc_dying(parked->tid));
}

/* Takes one request out that is due, with its error; adjusts *next for those that aren't. */
static struct parked *take_due(struct fs *fs, int64_t now_ms, int64_t *next, int *ret_error)
{
	struct parked *parked, *following, *due = NULL;
	pthread_mutex_lock(&fs->parked_lock);
	HASH_ITER(hh, fs->parked, parked, following)
	{
		bool expired = parked->deadline_ms <= now_ms;
		if (expired || ends_wait(parked)) {
			*ret_error = expired ? ETIMEDOUT : EINTR;
			due = remove_locked(fs, parked);
			break;
		}
		int64_t again = parked->interrupted ? now_ms + DYING_CHECK_MS : MQFS_NEVER;
		*next = again < *next ? again : *next;
		*next = parked->deadline_ms < *next ? parked->deadline_ms : *next;
	}
	pthread_mutex_unlock(&fs->parked_lock);
	return due;
}

static void answer_late(struct fs *fs, struct parked *parked)
{
	parked->answer(fs, parked->req);
	parked_free(fs, parked);
}

int64_t parked_tick(struct fs *fs, int64_t now_ms)
{
	struct parked *due;
	int64_t next;
	int error;
	do {
		next = MQFS_NEVER;
		due = take_due(fs, now_ms, &next, &error);
		if (due && due->answer && error == ETIMEDOUT)
			answer_late(fs, due);
		else if (due)
			abandon(fs, due, error);
	} while (due);
	return next;
}

void parked_end(struct fs *fs, int error)
{
	struct parked *parked;
	for (;;) {
		pthread_mutex_lock(&fs->parked_lock);
		parked = remove_locked(fs, fs->parked);
		pthread_mutex_unlock(&fs->parked_lock);
		if (!parked)
			return;
		fuse_reply_err(parked->req, error);
		parked_free(fs, parked);
	}
}

static void fill_entry(struct fs *fs, struct node *node, struct fuse_entry_param *entry)
{
	*entry = (struct fuse_entry_param){
	    .ino = node_ino(fs, node),
	    .entry_timeout = node->ops->entry_timeout,
	    .attr_timeout = node->ops->attr_timeout,
	};
	fs_lock(fs);
	node_attr(fs, node, &entry->attr);
	fs_unlock(fs);
}

static void forget_unsent(struct fs *fs, struct node *node, int result)
{
	if (result == 0)
		return;
	fs_lock(fs);
	tree_forget(fs, node, 1);
	fs_unlock(fs);
}

void reply_entry(struct fs *fs, fuse_req_t req, struct node *node)
{
	struct fuse_entry_param entry;
	fill_entry(fs, node, &entry);
	forget_unsent(fs, node, fuse_reply_entry(req, &entry));
}

void reply_create(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct fuse_entry_param entry;
	fill_entry(fs, node, &entry);
	/* An unsent CREATE is not followed by RELEASE (fuse_lowlevel.h, fuse_reply_create). */
	int result = fuse_reply_create(req, &entry, fi);
	if (result != 0 && node->ops->release)
		node->ops->release(fs, node, fi);
	forget_unsent(fs, node, result);
}

void reply_slice(fuse_req_t req, const void *data, size_t bytes, size_t size, off_t offset)
{
	size_t start = offset < 0 || (size_t)offset > bytes ? bytes : (size_t)offset;
	size_t rest = bytes - start;
	fuse_reply_buf(req, (const char *)data + start, rest < size ? rest : size);
}

void reply_body(fuse_req_t req, struct mqfs_body *body, size_t size, off_t offset)
{
	mqfs_body_ref(body);
	reply_slice(req, body->data, body->bytes, size, offset);
	mqfs_body_unref(body);
}
