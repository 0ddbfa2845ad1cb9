/* SPDX-License-Identifier: MIT */
#include "failed_dir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failpoint.h>

#include "dir.h"
#include "fs.h"
#include "message_file.h"
#include "moved.h"
#include "new_dir.h"
#include "pending_dir.h"
#include "queue.h"

#define LOOK_WAIT_MS 1500 /* a look answers within a second; this is for one that does not */
#define DISCARD_MS 5000

static const struct node_ops failed_message_ops;

static bool is_dead(const struct node *dir)
{
	return dir->object == &dir->queue->slots[SLOT_DEAD];
}

static struct mqfs_look *look_of(const struct node *dir)
{
	return is_dead(dir) ? dir->queue->dead : dir->queue->retry;
}

/* --- looking: a request waits until the listing is as fresh as R5 allows --- */

struct looking {
	struct fs *fs;
	ticket_t ticket;
	struct queue *queue; /* a reference */
	struct node *dir;    /* the kernel keeps it while its request is unanswered */
	struct fuse_file_info fi;
	bool listing;
	mqfs_name_t name; /* of a look-up */
};

static void reply_lookup(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	struct node *node;
	fs_lock(fs);
	int result = failed_dir_ops.child(fs, dir, name, 0, &node);
	if (result == -ENOENT)
		result = moved_child(fs, dir, name, &node);
	fs_unlock(fs);
	if (result == 0)
		reply_entry(fs, req, node);
	else
		fuse_reply_err(req, -result);
}

static void looked(void *arg, int result, const char *reason)
{
	(void)result, (void)reason; /* an old listing is better than none while the broker is away */
	struct looking *looking = arg;
	fuse_req_t req = unpark(looking->fs, looking->ticket);
	if (req && looking->listing)
		dir_reply_opendir(looking->fs, req, looking->dir, &looking->fi);
	else if (req)
		reply_lookup(looking->fs, req, looking->dir, looking->name);
	queue_unref(looking->queue);
	free(looking);
}

static void look(struct fs *fs, fuse_req_t req, struct node *dir, const char *name, struct fuse_file_info *fi)
{
	struct looking *looking = calloc(1, sizeof(*looking));
	if (!looking || (name && strlen(name) >= sizeof(looking->name))) {
		free(looking);
		fuse_reply_err(req, looking ? ENOENT : ENOMEM);
		return;
	}
	looking->fs = fs;
	looking->queue = queue_ref(dir->queue);
	looking->dir = dir;
	looking->listing = !name;
	if (name)
		strcpy(looking->name, name);
	else
		looking->fi = *fi;
	looking->ticket = park(fs, req, mqfs_clock_monotonic_ms() + LOOK_WAIT_MS, INTERRUPT_WHEN_DYING, NULL, NULL);
	if (mqfs_look_refresh(look_of(dir), looked, looking) == 1)
		looked(looking, 0, NULL);
}

/*
 * `mv claimed/X retry/` asks before and after whether retry/X exists. What is elsewhere is not there, what came from
 * claimed/ has another name there, and to find that out by a look would hold up every message that waits in retry/
 * whenever one fails.
 */
static bool is_elsewhere(const struct node *dir, const char *name)
{
	struct mqfs_look *other = is_dead(dir) ? dir->queue->retry : dir->queue->dead;
	struct mqfs_delivery *delivery = mqfs_consumer_find(dir->queue->consumer, name, NULL);
	if (!delivery)
		delivery = mqfs_look_find(other, name);
	mqfs_delivery_unref(delivery);
	return delivery;
}

static void failed_lookup(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	fs_lock(fs);
	bool moved = moved_was_file(dir, name);
	fs_unlock(fs);
	if (moved)
		reply_lookup(fs, req, dir, name);
	else if (is_elsewhere(dir, name))
		fuse_reply_err(req, ENOENT);
	else
		look(fs, req, dir, name, NULL);
}

static void failed_opendir(struct fs *fs, fuse_req_t req, struct node *dir, struct fuse_file_info *fi)
{
	mqfs_look_expire(look_of(dir));
	look(fs, req, dir, NULL, fi);
}

static int failed_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)tid;
	struct mqfs_delivery *delivery = mqfs_look_find(look_of(dir), name);
	if (!delivery)
		return -ENOENT;
	*ret_node = tree_node(fs, &failed_message_ops, dir->queue, delivery, VIEW_FAILED);
	mqfs_delivery_unref(delivery);
	return *ret_node ? 0 : -ENOMEM;
}

struct add_to_listing {
	struct fs *fs;
	struct listing *listing;
};

static void add_failed(struct mqfs_delivery *delivery, void *arg)
{
	const struct add_to_listing *add = arg;
	listing_add(add->listing, delivery->name, node_number(add->fs, delivery, VIEW_FAILED), S_IFDIR);
}

static void failed_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	struct add_to_listing add = {fs, listing};
	mqfs_look_list(look_of(dir), add_failed, &add);
}

/* --- settling: rmdir discards, mv replays, retries or grants (R4) --- */

struct settling {
	struct fs *fs;
	ticket_t ticket;
	struct queue *queue;            /* a reference */
	struct mqfs_delivery *delivery; /* a reference */
	/* Where a message was moved to; NULL: nowhere. */
	struct queue *target; /* a reference */
	const void *target_dir;
	mqfs_name_t target_name;
};

/* mv looks at what it has moved; in the other of retry/ and dead/ it is listed by the same name at the next look. */
static void show_moved(const struct settling *settling)
{
	mqfs_look_expire(settling->target->retry);
	mqfs_look_expire(settling->target->dead);
	moved_add(settling->fs, settling->target, settling->target_dir, settling->target_name, S_IFDIR);
}

/* `rm -r` has unlinked the files, and failed then: they are there as before. */
static void show_files(const struct settling *settling)
{
	struct fs *fs = settling->fs;
	fs_lock(fs);
	struct node *node = tree_node(fs, &failed_message_ops, settling->queue, settling->delivery, VIEW_FAILED);
	if (node) {
		node->hidden = 0;
		tree_forget(fs, node, 1);
	}
	fs_unlock(fs);
}

static void settled(void *arg, int result, const char *reason)
{
	(void)reason;
	struct settling *settling = arg;
	if (result == 0 && settling->target)
		show_moved(settling);
	else if (result < 0)
		show_files(settling);
	FAILPOINT(fs_failed_answering);
	unpark_error(settling->fs, settling->ticket, -result);
	FAILPOINT(fs_failed_answered);
	if (settling->target)
		queue_unref(settling->target);
	mqfs_delivery_unref(settling->delivery);
	queue_unref(settling->queue);
	free(settling);
}

/* rename: NULL for rmdir. */
static void settle(struct fs *fs, fuse_req_t req, const struct node *dir, const char *name, enum mqfs_look_verb verb,
                   const struct rename *rename, int64_t wait_ms)
{
	const struct node *new_dir = rename && verb == MQFS_LOOK_REPLAY ? rename->to_dir : NULL;
	struct mqfs_delivery *delivery = mqfs_look_find(look_of(dir), name);
	struct settling *settling = delivery ? malloc(sizeof(*settling)) : NULL;
	if (!settling) {
		fuse_reply_err(req, delivery ? ENOMEM : ENOENT);
		mqfs_delivery_unref(delivery);
		return;
	}
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + wait_ms;
	*settling =
	    (struct settling){.fs = fs, .queue = queue_ref(dir->queue), .delivery = mqfs_delivery_ref(delivery)};
	if (rename) {
		settling->target = queue_ref(rename->to_dir->queue);
		settling->target_dir = rename->to_dir->object;
		strcpy(settling->target_name, rename->to);
	}
	settling->ticket = park(fs, req, deadline_ms + 100, INTERRUPT_WHEN_DYING, NULL, NULL);
	mqfs_look_settle(look_of(dir), delivery, verb, new_dir ? new_dir->queue->name : NULL,
	                 new_dir ? new_dir_priority(new_dir) : -1, deadline_ms, settled, settling);
	mqfs_delivery_unref(delivery);
}

static void failed_rmdir(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	fs_lock(fs);
	bool moved = moved_remove(dir, name);
	fs_unlock(fs);
	struct mqfs_delivery *delivery = mqfs_look_find(look_of(dir), name);
	mqfs_delivery_unref(delivery);
	if (moved && !delivery)
		fuse_reply_err(req, 0);
	else
		settle(fs, req, dir, name, MQFS_LOOK_DISCARD, NULL, DISCARD_MS);
}

/* Which verb a move means; -EPERM for those that mean nothing. */
static int verb_of(const struct rename *rename)
{
	const struct node *from = rename->from_dir, *to = rename->to_dir;
	if (to->ops == &new_dir_ops)
		return MQFS_LOOK_REPLAY;
	if (to->queue != from->queue)
		return -EPERM;
	if (to->ops == &failed_dir_ops && is_dead(from) && !is_dead(to))
		return MQFS_LOOK_GRANT;
	if (to->ops == &failed_dir_ops && !is_dead(from) && is_dead(to))
		return MQFS_LOOK_BURY;
	if (to->ops == &pending_dir_ops && !is_dead(from))
		return MQFS_LOOK_RETRY_NOW;
	return -EPERM;
}

static void failed_rename(struct fs *fs, fuse_req_t req, const struct rename *rename)
{
	int verb = verb_of(rename);
	if (verb < 0) {
		fuse_reply_err(req, -verb);
		return;
	}
	fs_lock(fs);
	int64_t wait_ms = rename->from_dir->queue->settings.rename_timeout_ms;
	fs_unlock(fs);
	settle(fs, req, rename->from_dir, rename->from, (enum mqfs_look_verb)verb, rename, wait_ms);
}

/* --- a failed message's directory --- */

static int failed_message_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)tid;
	return message_child(fs, dir, name, true, ret_node);
}

static void failed_message_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	message_list(fs, dir, true, listing);
}

/* `rm -r dead/X` unlinks the files before it removes the directory: they are hidden until then. */
static void failed_message_unlink(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	int view = message_view(name, true);
	int error = ENOENT;
	fs_lock(fs);
	if (view >= 0 && !(dir->hidden & (1U << view))) {
		dir->hidden |= 1U << view;
		error = 0;
	}
	fs_unlock(fs);
	fuse_reply_err(req, error);
}

static void failed_message_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	message_times(node->object, st);
}

static const struct node_ops failed_message_ops = {
    .mode = S_IFDIR | 0700,
    .attr_timeout = 1.0,
    .attr = failed_message_attr,
    .hold = message_hold,
    .drop = message_drop,
    .child = failed_message_child,
    .list = failed_message_list,
    .unlink = failed_message_unlink,
    .getxattr = message_getxattr,
    .listxattr = message_listxattr,
};

const struct node_ops failed_dir_ops = {
    .mode = S_IFDIR | 0700,
    .entry_timeout = 1.0,
    .attr_timeout = 1.0,
    .child = failed_child,
    .list = failed_list,
    .lookup = failed_lookup,
    .opendir = failed_opendir,
    .rmdir = failed_rmdir,
    .rename = failed_rename,
};
