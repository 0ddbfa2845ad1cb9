/* SPDX-License-Identifier: MIT */
#include "text_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs.h"
#include "opened.h"
#include "outbox.h"
#include "queue.h"

static void drop_text(struct fs *fs, void *text)
{
	(void)fs;
	free(text);
}

void text_reply_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi, char *text)
{
	if (!text) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	/* Past the page cache: its length is that of this moment, not the one stat() told. */
	fi->direct_io = 1;
	fi->noflush = 1;
	if (opened_reply(fs, req, fi, text, drop_text) != 0)
		text_release(fs, node, fi);
}

void text_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset, struct fuse_file_info *fi)
{
	(void)fs, (void)node;
	/* A copy: RELEASE may free the text while the answer is still on its way. */
	char *text = strdup((const char *)(uintptr_t)fi->fh);
	if (text)
		reply_slice(req, text, strlen(text), size, offset);
	else
		fuse_reply_err(req, ENOMEM);
	free(text);
}

void text_release(struct fs *fs, struct node *node, struct fuse_file_info *fi)
{
	(void)fs, (void)node;
	free((char *)(uintptr_t)fi->fh);
}

/* --- stats (M5) --- */

#define DEPTHS_FRESH_MS 500
#define DEPTHS_WAIT_MS 500

/* (locked) */
static char *stats_text(struct queue *queue)
{
	struct mqfs_consumer_state state;
	mqfs_consumer_state_of(queue->consumer, &state);
	const struct mqfs_counters *c = &queue->counters;
	const struct mqfs_depths *d = &queue->depths;
	char *text;
	int length = asprintf(
	    &text,
	    "ready %" PRId64 "\nconsumers %" PRId64 "\npending %" PRId64 "\nclaimed %" PRId64 "\nretry %" PRId64
	    "\ndead %" PRId64 "\noutbox %" PRId64 "\ndrafts %" PRId64
	    "\npublished %llu\nconfirmed %llu\nreturned %llu\n"
	    "nacked %llu\ndelivered %llu\nredelivered %llu\nacked %llu\nretried %llu\ndead_lettered %llu\n"
	    "expired_claims %llu\nprefetch %" PRId64 "\nprefetch_full %llu\noldest_pending_age %" PRId64 ".%03d\n",
	    d->ready, d->consumers, state.pending, state.claimed, d->retry + mqfs_look_held(queue->retry),
	    d->dead + mqfs_look_held(queue->dead), queue->in_line, queue->draft_count, atomic_load(&c->published),
	    atomic_load(&c->confirmed), atomic_load(&c->returned), atomic_load(&c->nacked), atomic_load(&c->delivered),
	    atomic_load(&c->redelivered), atomic_load(&c->acked), atomic_load(&c->retried),
	    atomic_load(&c->dead_lettered), atomic_load(&c->expired_claims), queue->settings.prefetch,
	    atomic_load(&c->prefetch_full), state.oldest_pending_ms / 1000, (int)(state.oldest_pending_ms % 1000));
	return length < 0 ? NULL : text;
}

static void text_size(struct stat *st, char *text)
{
	st->st_size = text ? (off_t)strlen(text) : 0;
	free(text);
}

static void stats_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	text_size(st, stats_text(node->queue));
	st->st_mtim = (struct timespec){.tv_sec = mqfs_clock_realtime_us() / 1000000};
}

/* An open that waits for fresh depths: half a second at most, then the last known ones do. */
struct stats_wait {
	struct fs *fs;
	ticket_t ticket;
	struct queue *queue; /* a reference */
	struct node *node;   /* the kernel keeps it while its OPEN is unanswered */
	struct fuse_file_info fi;
};

static void stats_reply(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	fs_lock(fs);
	char *text = stats_text(node->queue);
	fs_unlock(fs);
	text_reply_open(fs, req, node, fi, text);
}

static void depths_known(void *arg, int result, const struct mqfs_depths *depths)
{
	struct stats_wait *wait = arg;
	fs_lock(wait->fs);
	if (result == 0) {
		wait->queue->depths = *depths;
		wait->queue->depths_ms = mqfs_clock_monotonic_ms();
	}
	fs_unlock(wait->fs);
	if (result == -ENOENT)
		atomic_store(&wait->queue->doubtful, true);
	fuse_req_t req = unpark(wait->fs, wait->ticket);
	if (req)
		stats_reply(wait->fs, req, wait->node, &wait->fi);
	queue_unref(wait->queue);
	free(wait);
}

static void stats_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();
	fs_lock(fs);
	bool fresh = node->queue->depths_ms && now_ms - node->queue->depths_ms < DEPTHS_FRESH_MS;
	fs_unlock(fs);
	struct stats_wait *wait = fresh ? NULL : malloc(sizeof(*wait));
	if (!wait) {
		stats_reply(fs, req, node, fi);
		return;
	}
	*wait = (struct stats_wait){.fs = fs, .queue = queue_ref(node->queue), .node = node, .fi = *fi};
	/* The backend answers by its deadline; ours is only there in case it does not. */
	wait->ticket = park(fs, req, now_ms + 4 * DEPTHS_WAIT_MS, INTERRUPT_ANY_SIGNAL, NULL, NULL);
	mqfs_queue_depths(fs->backend, node->queue->name, now_ms + DEPTHS_WAIT_MS, depths_known, wait);
}

const struct node_ops stats_file_ops = {
    .mode = S_IFREG | 0400,
    .attr = stats_attr,
    .open = stats_open,
    .read = text_read,
    .release = text_release,
};

/* --- .mqfs/status --- */

static char *status_text(struct fs *fs)
{
	struct mqfs_backend_status status;
	char since[MQFS_RFC3339_BYTES], mounted[MQFS_RFC3339_BYTES], *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);
	if (!out)
		return NULL;
	mqfs_backend_status(fs->backend, &status);
	fprintf(out, "version %s\nbackend %s\nproduct %s\nconnected %s\nsince %s\nreason %s\nmounted %s\n",
	        MQFS_VERSION, status.peer, status.product, status.connected ? "yes" : "no",
	        mqfs_clock_rfc3339(status.since_us, since), status.reason, mqfs_clock_rfc3339(fs->mounted_us, mounted));
	outbox_status(fs, out);
	fclose(out);
	return text;
}

static void status_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)node;
	text_size(st, status_text(fs));
}

static void status_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	text_reply_open(fs, req, node, fi, status_text(fs));
}

const struct node_ops status_file_ops = {
    .mode = S_IFREG | 0400,
    .attr = status_attr,
    .open = status_open,
    .read = text_read,
    .release = text_release,
};

/* --- .mqfs/README --- */

static const char readme[] =
    "This is a mount of mqfs: each directory beside .mqfs is a message queue.\n"
    "\n"
    "  mkdir Q                     make a queue\n"
    "  echo task >Q/new/a          publish a message (Q/new/@7/a: at priority 7)\n"
    "  ls Q/pending                what was delivered to this mount and nobody has taken\n"
    "  cat Q/pending/X             take a message (then it is in Q/claimed)\n"
    "  rm Q/claimed/X              it is done: acknowledge it\n"
    "  mv Q/claimed/X Q/retry/     it failed: try again later (Q/dead/: never again)\n"
    "  mv Q/claimed/X Q/pending/   give it back\n"
    "  mv Q/dead/* Q/new/          publish dead messages afresh\n"
    "  cat Q/claim                 wait for a message, take it, print its name\n"
    "  cat Q/next                  wait for a message, print it, acknowledge it\n"
    "  cat Q/stats                 numbers;  Q/config/: settings, one a file\n"
    "\n"
    "Looking (ls, stat, find, and reading under Q/peek, Q/retry and Q/dead) settles nothing.\n";

static void readme_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs, (void)node;
	st->st_size = sizeof(readme) - 1;
}

static void readme_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	text_reply_open(fs, req, node, fi, strdup(readme));
}

const struct node_ops readme_file_ops = {
    .mode = S_IFREG | 0400,
    .entry_timeout = 1.0,
    .attr = readme_attr,
    .open = readme_open,
    .read = text_read,
    .release = text_release,
};
