/* SPDX-License-Identifier: MIT */
/*
 * The top of the tree: queues by name (Q1, Q3, Q4). A look-up of a name that this mount has not met asks the
 * broker, since `cd jobs` must find a queue without configuration; it locks the directory in the kernel, so it
 * waits 0.2 s at most.
 */
#include "root_dir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/log.h>

#include "dir.h"
#include "claim_file.h"
#include "config_dir.h"
#include "draft.h"
#include "failed_dir.h"
#include "fs.h"
#include "new_dir.h"
#include "peek_dir.h"
#include "pending_dir.h"
#include "queue.h"
#include "text_file.h"

#define LOG_TOPIC "root"
#define LOOKUP_MS 200
#define DECLARE_MS 10000

enum top_slot { TOP_ROOT, TOP_MQFS, TOP_README, TOP_STATUS };

/* One request about a queue that waits for the broker. */
struct asking {
	struct fs *fs;
	ticket_t ticket;
	mqfs_name_t name;
};

static struct asking *asking_new(struct fs *fs, const char *name)
{
	struct asking *asking = malloc(sizeof(*asking));
	if (asking) {
		*asking = (struct asking){.fs = fs};
		strcpy(asking->name, name);
	}
	return asking;
}

/* --- look-up and listing --- */

static int queue_node(struct fs *fs, struct queue *queue, struct node **ret_node)
{
	*ret_node = tree_node(fs, &queue_dir_ops, queue, &queue->slots[SLOT_QUEUE], VIEW_ONLY);
	return *ret_node ? 0 : -ENOMEM;
}

/* What is known without asking; -EAGAIN: ask the broker. */
static int root_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)dir, (void)tid;
	if (strcmp(name, ".mqfs") == 0) {
		*ret_node = tree_node(fs, &mqfs_dir_ops, NULL, &fs->slots[TOP_MQFS], VIEW_ONLY);
		return *ret_node ? 0 : -ENOMEM;
	}
	struct queue *queue, *next;
	HASH_ITER(hh, fs->queues, queue, next)
	{
		if (strcmp(queue->file, name) == 0)
			return atomic_load(&queue->doubtful) ? -EAGAIN : queue_node(fs, queue, ret_node);
	}
	return -EAGAIN;
}

/* The queue is there: a node for it. */
static int found_queue(struct fs *fs, const char *name, struct node **ret_node)
{
	struct queue *queue = queue_add(fs, name);
	if (!queue)
		return -ENOMEM;
	atomic_store(&queue->doubtful, false);
	fs_lock(fs);
	int result = queue_node(fs, queue, ret_node);
	fs_unlock(fs);
	queue_unref(queue);
	return result;
}

/* The broker says that a queue we knew is gone: deleted by somebody else. Drafts that were kept stay, and so does it.
 */
static void vanished(struct fs *fs, const char *name)
{
	fs_lock(fs);
	struct queue *queue = queue_known(fs, name);
	if (queue)
		queue_ref(queue);
	fs_unlock(fs);
	if (!queue)
		return;
	queue_remove(fs, queue);
	queue_unref(queue);
}

static void answer_with_queue(struct asking *asking)
{
	struct node *node;
	fuse_req_t req = unpark(asking->fs, asking->ticket);
	if (!req)
		return;
	int result = found_queue(asking->fs, asking->name, &node);
	if (result == 0)
		reply_entry(asking->fs, req, node);
	else
		fuse_reply_err(req, -result);
}

static void looked_up(void *arg, int result, const char *reason)
{
	(void)reason;
	struct asking *asking = arg;
	struct fs *fs = asking->fs;
	if (result == -ENOENT)
		vanished(fs, asking->name);
	fs_lock(fs);
	bool known = queue_known(fs, asking->name);
	fs_unlock(fs);
	/* With the broker away, what was known stays known; kept drafts keep a queue listed. */
	if (result == 0 || known)
		answer_with_queue(asking);
	else
		unpark_error(fs, asking->ticket, result == -ETIMEDOUT ? EHOSTDOWN : -result);
	free(asking);
}

static void root_lookup(struct fs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	struct node *node;
	mqfs_name_t queue_name;
	fs_lock(fs);
	int result = root_child(fs, dir, name, 0, &node);
	if (result == -EAGAIN && (mqfs_name_decode(name, queue_name) < 0 || queue_is_helper(fs, queue_name)))
		result = -ENOENT;
	fs_unlock(fs);
	if (result == 0) {
		reply_entry(fs, req, node);
		return;
	}
	struct asking *asking = result == -EAGAIN ? asking_new(fs, queue_name) : NULL;
	if (!asking) {
		fuse_reply_err(req, result == -EAGAIN ? ENOMEM : -result);
		return;
	}
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + LOOKUP_MS;
	/* A little more, so that the backend can say EHOSTDOWN rather than we ETIMEDOUT. */
	asking->ticket = park(fs, req, deadline_ms + 50, INTERRUPT_WHEN_DYING, NULL, NULL);
	mqfs_queue_find(fs->backend, queue_name, deadline_ms, looked_up, asking);
}

static void root_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	(void)dir;
	struct queue *queue, *next;
	listing_add(listing, ".mqfs", node_number(fs, &fs->slots[TOP_MQFS], VIEW_ONLY), S_IFDIR);
	HASH_ITER(hh, fs->queues, queue, next)
	{
		listing_add(listing, queue->file, node_number(fs, &queue->slots[SLOT_QUEUE], VIEW_ONLY), S_IFDIR);
	}
}

/* A store that can name its queues does so before each listing, if its disk lets it. */
struct listing_wait {
	struct fs *fs;
	ticket_t ticket;
};

static void list_known(struct fs *fs, fuse_req_t req)
{
	const struct fuse_file_info fi = {0};
	dir_reply_opendir(fs, req, fs->root, &fi);
}

static void listed(void *arg, int result, const char *const *queues, size_t count)
{
	struct listing_wait *wait = arg;
	for (size_t i = 0; result == 0 && i < count; i++) {
		struct queue *queue = queue_add(wait->fs, queues[i]);
		if (queue)
			queue_unref(queue);
	}
	fuse_req_t req = unpark(wait->fs, wait->ticket);
	if (req)
		list_known(wait->fs, req);
	free(wait);
}

static void root_opendir(struct fs *fs, fuse_req_t req, struct node *dir, struct fuse_file_info *fi)
{
	struct listing_wait *wait = malloc(sizeof(*wait));
	if (!wait) {
		dir_reply_opendir(fs, req, dir, fi);
		return;
	}
	*wait = (struct listing_wait){.fs = fs};
	wait->ticket = park_until(fs, req, mqfs_clock_monotonic_ms() + LOOKUP_MS, list_known);
	mqfs_queue_list(fs->backend, listed, wait);
}

/* --- mkdir --- */

static void declared(void *arg, int result, const char *reason)
{
	struct asking *asking = arg;
	if (result == 0) {
		answer_with_queue(asking);
	} else {
		if (reason)
			log_info("declaring a queue was refused: %s", reason);
		unpark_error(asking->fs, asking->ticket, -result);
	}
	free(asking);
}

static int check_new_name(struct fs *fs, const char *file, mqfs_name_t ret_queue)
{
	int result = mqfs_name_decode(file, ret_queue);
	if (result < 0)
		return result;
	if (strlen(ret_queue) > MQFS_QUEUE_NAME_MKDIR_MAX)
		return -ENAMETOOLONG;
	fs_lock(fs);
	bool helper = queue_is_helper(fs, ret_queue);
	fs_unlock(fs);
	return helper ? -EINVAL : 0;
}

static void root_mkdir(struct fs *fs, fuse_req_t req, struct node *dir, const char *file)
{
	(void)dir;
	mqfs_name_t name;
	int result = check_new_name(fs, file, name);
	struct asking *asking = result == 0 ? asking_new(fs, name) : NULL;
	if (!asking) {
		fuse_reply_err(req, result < 0 ? -result : ENOMEM);
		return;
	}
	fs_lock(fs);
	struct mqfs_settings settings = fs->settings;
	fs_unlock(fs);
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + DECLARE_MS;
	asking->ticket = park(fs, req, deadline_ms + 1000, INTERRUPT_WHEN_DYING, NULL, NULL);
	mqfs_queue_declare(fs->backend, name, &settings, deadline_ms, declared, asking);
}

/* --- rmdir (Q3): give back what we hold, then let the broker decide --- */

struct removal {
	struct fs *fs;
	ticket_t ticket;
	struct queue *queue; /* a reference */
	int64_t deadline_ms;
};

static void removal_end(struct removal *removal, int result)
{
	bool gone = result == 0 || result == -ENOENT;
	if (gone && !queue_remove(removal->fs, removal->queue))
		result = -ENOTEMPTY; /* what was written meanwhile */
	if (gone)
		mqfs_consumer_gone(removal->queue->consumer);
	else
		mqfs_consumer_resume(removal->queue->consumer);
	unpark_error(removal->fs, removal->ticket, -result);
	queue_unref(removal->queue);
	free(removal);
}

static void deleted(void *arg, int result, const char *reason)
{
	(void)reason;
	removal_end(arg, result);
}

static void stopped(void *arg, int result, const char *reason)
{
	(void)reason;
	struct removal *removal = arg;
	struct fs *fs = removal->fs;
	/* The caller was told that it failed: what becomes of the queue is no longer ours to say. */
	if (result == 0 && mqfs_clock_monotonic_ms() >= removal->deadline_ms)
		result = -ETIMEDOUT;
	if (result < 0) {
		removal_end(removal, result);
		return;
	}
	fs_lock(fs);
	bool unsafe = removal->queue->settings.delete_unsafe;
	fs_unlock(fs);
	mqfs_queue_delete(fs->backend, removal->queue->name, unsafe, removal->deadline_ms, deleted, removal);
}

/* (locked) What we can tell ourselves. */
static int check_empty(struct queue *queue)
{
	struct mqfs_consumer_state state;
	mqfs_consumer_state_of(queue->consumer, &state);
	/* What a look holds the broker does not count: it would delete the queue with it. */
	bool content = queue_has_drafts(queue) || state.claimed > 0 || mqfs_look_held(queue->retry) > 0 ||
	               mqfs_look_held(queue->dead) > 0;
	return content ? -ENOTEMPTY : 0;
}

static void root_rmdir(struct fs *fs, fuse_req_t req, struct node *dir, const char *file)
{
	(void)dir;
	mqfs_name_t name;
	struct removal *removal = calloc(1, sizeof(*removal));
	int result = removal ? mqfs_name_decode(file, name) : -ENOMEM;
	fs_lock(fs);
	struct queue *queue = result == 0 ? queue_known(fs, name) : NULL;
	if (result == 0)
		result = queue ? check_empty(queue) : -ENOENT;
	if (result == 0)
		queue_ref(queue);
	fs_unlock(fs);
	if (result < 0) {
		free(removal);
		fuse_reply_err(req, strcmp(file, ".mqfs") == 0 ? EPERM : -result);
		return;
	}
	*removal = (struct removal){.fs = fs, .queue = queue, .deadline_ms = mqfs_clock_monotonic_ms() + DECLARE_MS};
	removal->ticket = park(fs, req, removal->deadline_ms + 1000, INTERRUPT_WHEN_DYING, NULL, NULL);
	mqfs_consumer_stop(queue->consumer, stopped, removal);
}

static void root_rename(struct fs *fs, fuse_req_t req, const struct rename *rename)
{
	(void)fs, (void)rename;
	fuse_reply_err(req, EPERM); /* a queue has no other name */
}

/* --- MOUNT/Q --- */

static const struct {
	const char *name;
	enum slot slot;
	const struct node_ops *ops;
	bool listed;
} queue_children[] = {
    {"new", SLOT_NEW, &new_dir_ops, true},
    {"pending", SLOT_PENDING, &pending_dir_ops, true},
    {"claimed", SLOT_CLAIMED, &claimed_dir_ops, true},
    {"peek", SLOT_PEEK, &peek_dir_ops, true},
    {"retry", SLOT_RETRY, &failed_dir_ops, true},
    {"dead", SLOT_DEAD, &failed_dir_ops, true},
    {"claim", SLOT_CLAIM, &claim_file_ops, false},
    {"next", SLOT_NEXT, &claim_file_ops, false},
    {"stats", SLOT_STATS, &stats_file_ops, true},
    {"config", SLOT_CONFIG, &config_dir_ops, true},
};

#define QUEUE_CHILDREN (sizeof(queue_children) / sizeof(queue_children[0]))

static int queue_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)tid;
	struct queue *queue = dir->queue;
	for (size_t i = 0; i < QUEUE_CHILDREN; i++) {
		if (strcmp(queue_children[i].name, name) != 0)
			continue;
		*ret_node =
		    tree_node(fs, queue_children[i].ops, queue, &queue->slots[queue_children[i].slot], VIEW_ONLY);
		return *ret_node ? 0 : -ENOMEM;
	}
	return -ENOENT;
}

static void queue_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	for (size_t i = 0; i < QUEUE_CHILDREN; i++) {
		uint64_t number = node_number(fs, &dir->queue->slots[queue_children[i].slot], VIEW_ONLY);
		if (queue_children[i].listed)
			listing_add(listing, queue_children[i].name, number, queue_children[i].ops->mode);
	}
}

static void queue_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	st->st_mtim.tv_sec = node->queue->known_us / 1000000;
	st->st_mtim.tv_nsec = node->queue->known_us % 1000000 * 1000;
}

/* --- .mqfs/ --- */

static int mqfs_child(struct fs *fs, struct node *dir, const char *name, pid_t tid, struct node **ret_node)
{
	(void)dir, (void)tid;
	if (strcmp(name, "README") == 0)
		*ret_node = tree_node(fs, &readme_file_ops, NULL, &fs->slots[TOP_README], VIEW_ONLY);
	else if (strcmp(name, "status") == 0)
		*ret_node = tree_node(fs, &status_file_ops, NULL, &fs->slots[TOP_STATUS], VIEW_ONLY);
	else
		return -ENOENT;
	return *ret_node ? 0 : -ENOMEM;
}

static void mqfs_list(struct fs *fs, struct node *dir, struct listing *listing)
{
	(void)dir;
	listing_add(listing, "README", node_number(fs, &fs->slots[TOP_README], VIEW_ONLY), S_IFREG);
	listing_add(listing, "status", node_number(fs, &fs->slots[TOP_STATUS], VIEW_ONLY), S_IFREG);
}

const struct node_ops root_dir_ops = {
    .mode = S_IFDIR | 0700,
    .attr_timeout = 1.0,
    .child = root_child,
    .list = root_list,
    .lookup = root_lookup,
    .opendir = root_opendir,
    .mkdir = root_mkdir,
    .rmdir = root_rmdir,
    .rename = root_rename,
};

const struct node_ops queue_dir_ops = {
    .mode = S_IFDIR | 0700,
    .entry_timeout = 1.0,
    .attr_timeout = 1.0,
    .attr = queue_attr,
    .child = queue_child,
    .list = queue_list,
};

const struct node_ops mqfs_dir_ops = {
    .mode = S_IFDIR | 0700,
    .entry_timeout = 1.0,
    .attr_timeout = 1.0,
    .child = mqfs_child,
    .list = mqfs_list,
};
