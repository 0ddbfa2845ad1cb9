/* SPDX-License-Identifier: MIT */
#include "message_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failure.h>
#include <mqfs/property.h>

#include "dir.h"
#include "fs.h"
#include "queue.h"
#include "text_file.h"

void *message_hold(void *delivery)
{
	return mqfs_delivery_ref(delivery);
}

void message_drop(void *delivery)
{
	mqfs_delivery_unref(delivery);
}

void message_times(const struct mqfs_delivery *delivery, struct stat *st)
{
	struct mqfs_history history;
	mqfs_history_read(delivery->message, &history);
	st->st_mtim.tv_sec = history.published_us / 1000000;
	st->st_mtim.tv_nsec = history.published_us % 1000000 * 1000;
}

/* --- a message's directory --- */

static const struct {
	const char *name;
	enum view view;
	const struct node_ops *ops;
} files[] = {
    {"body", VIEW_BODY, &body_file_ops},
    {"meta.json", VIEW_META, &meta_file_ops},
    {"error", VIEW_REASON, &reason_file_ops},
};

static size_t file_count(bool reason)
{
	return reason ? 3 : 2;
}

int message_view(const char *name, bool reason)
{
	for (size_t i = 0; i < file_count(reason); i++) {
		if (strcmp(files[i].name, name) == 0)
			return files[i].view;
	}
	return -1;
}

int message_child(struct fs *fs, struct node *dir, const char *name, bool reason, struct node **ret_node)
{
	for (size_t i = 0; i < file_count(reason); i++) {
		if (strcmp(files[i].name, name) != 0 || dir->hidden & (1U << files[i].view))
			continue;
		*ret_node = tree_node(fs, files[i].ops, dir->queue, dir->object, files[i].view);
		return *ret_node ? 0 : -ENOMEM;
	}
	return -ENOENT;
}

void message_list(struct fs *fs, struct node *dir, bool reason, struct listing *listing)
{
	for (size_t i = 0; i < file_count(reason); i++) {
		if (!(dir->hidden & (1U << files[i].view)))
			listing_add(listing, files[i].name, node_number(fs, dir->object, files[i].view), S_IFREG);
	}
}

/* --- body --- */

static void body_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	const struct mqfs_delivery *delivery = node->object;
	st->st_size = (off_t)delivery->message->body->bytes;
	message_times(delivery, st);
}

static void body_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	(void)fs, (void)node;
	fi->keep_cache = 1; /* a message never changes */
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

static void body_read(struct fs *fs, fuse_req_t req, struct node *node, size_t size, off_t offset,
                      struct fuse_file_info *fi)
{
	(void)fs, (void)fi;
	const struct mqfs_delivery *delivery = node->object;
	reply_body(req, delivery->message->body, size, offset);
}

/* --- meta.json and error --- */

static struct mqfs_look *look_of(const struct node *node)
{
	const struct mqfs_delivery *delivery = node->object;
	return delivery->place == MQFS_PLACE_DEAD ? node->queue->dead : node->queue->retry;
}

static char *meta_text(struct node *node)
{
	struct mqfs_delivery *delivery = node->object;
	if (delivery->place == MQFS_PLACE_READY)
		return mqfs_consumer_meta(node->queue->consumer, delivery);
	return mqfs_look_meta(look_of(node), delivery);
}

static void meta_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	char *text = meta_text(node);
	st->st_size = text ? (off_t)strlen(text) : 0;
	free(text);
	message_times(node->object, st);
}

static void meta_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	text_reply_open(fs, req, node, fi, meta_text(node));
}

static const char *reason_text(const struct node *node)
{
	const struct mqfs_delivery *delivery = node->object;
	struct mqfs_history history;
	mqfs_history_read(delivery->message, &history);
	return history.error ? history.error : history.dead_reason ? history.dead_reason : "";
}

static void reason_attr(struct fs *fs, struct node *node, struct stat *st)
{
	(void)fs;
	size_t bytes = strlen(reason_text(node));
	st->st_size = bytes ? (off_t)bytes + 1 : 0;
	message_times(node->object, st);
}

static void reason_open(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	const char *reason = reason_text(node);
	char *text;
	if (asprintf(&text, "%s%s", reason, *reason ? "\n" : "") < 0)
		text = NULL;
	text_reply_open(fs, req, node, fi, text);
}

/* --- extended attributes --- */

struct fact {
	const char *name;
	char *value;
	bool claimed;
	int64_t takes;
};

static void guarded_fact(struct mqfs_delivery *delivery, void *arg)
{
	struct fact *fact = arg;
	fact->claimed = delivery->claimed_us != 0;
	fact->takes = delivery->takes;
	if (strcmp(fact->name, "state") == 0)
		fact->value = strdup(mqfs_delivery_state_name(delivery->state));
	else if (strcmp(fact->name, "claimed-by") == 0 && delivery->claimed_us)
		fact->value = strdup(delivery->claimed_by);
	else if (strcmp(fact->name, "error") == 0 && delivery->error)
		fact->value = strdup(delivery->error);
}

static char *number_text(int64_t number)
{
	char *text;
	return asprintf(&text, "%" PRId64, number) < 0 ? NULL : text;
}

static char *fact_of(struct node *node, const char *name)
{
	struct mqfs_delivery *delivery = node->object;
	if (strcmp(name, "redelivered") == 0)
		return strdup(delivery->redelivered ? "1" : "0");
	if (strcmp(name, "queue") == 0)
		return strdup(delivery->queue);
	if (strcmp(name, "exchange") == 0)
		return delivery->exchange ? strdup(delivery->exchange) : NULL;
	if (strcmp(name, "routing-key") == 0)
		return delivery->routing_key ? strdup(delivery->routing_key) : NULL;

	struct mqfs_history history;
	mqfs_history_read(delivery->message, &history);
	bool ready = delivery->place == MQFS_PLACE_READY;
	struct fact fact = {.name = name};
	if (ready)
		mqfs_consumer_with(node->queue->consumer, delivery, guarded_fact, &fact);
	if (strcmp(name, "attempts") == 0)
		return number_text(history.attempts + fact.takes + fact.claimed);
	if (strcmp(name, "error") == 0 && !fact.value && history.error)
		return strdup(history.error);
	if (strcmp(name, "state") == 0 && !ready)
		return strdup(delivery->place == MQFS_PLACE_DEAD ? "dead" : "retry");
	return fact.value;
}

static const char *const facts[] = {"redelivered", "attempts", "queue",      "exchange",
                                    "routing-key", "state",    "claimed-by", "error"};

int message_getxattr(struct fs *fs, struct node *node, const char *name, char **ret_value, size_t *ret_bytes)
{
	(void)fs;
	const struct mqfs_delivery *delivery = node->object;
	for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
		if (strcmp(facts[i], name) != 0)
			continue;
		*ret_value = fact_of(node, name);
		*ret_bytes = *ret_value ? strlen(*ret_value) : 0;
		return *ret_value ? 0 : -ENODATA;
	}
	return mqfs_property_get(delivery->message, name, ret_value, ret_bytes);
}

void message_listxattr(struct fs *fs, struct node *node, void (*each)(const char *name, void *arg), void *arg)
{
	(void)fs;
	const struct mqfs_delivery *delivery = node->object;
	mqfs_property_each(delivery->message, each, arg);
	for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
		char *value = fact_of(node, facts[i]);
		if (value)
			each(facts[i], arg);
		free(value);
	}
}

const struct node_ops body_file_ops = {
    .mode = S_IFREG | 0400,
    .entry_timeout = 1.0,
    .attr_timeout = 60, /* a message never changes */
    .attr = body_attr,
    .hold = message_hold,
    .drop = message_drop,
    .open = body_open,
    .read = body_read,
    .getxattr = message_getxattr,
    .listxattr = message_listxattr,
};

const struct node_ops meta_file_ops = {
    .mode = S_IFREG | 0400,
    .attr = meta_attr,
    .hold = message_hold,
    .drop = message_drop,
    .open = meta_open,
    .read = text_read,
    .release = text_release,
};

const struct node_ops reason_file_ops = {
    .mode = S_IFREG | 0400,
    .attr = reason_attr,
    .hold = message_hold,
    .drop = message_drop,
    .open = reason_open,
    .read = text_read,
    .release = text_release,
};
