/* SPDX-License-Identifier: MIT */
#include "draft_xattr.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/property.h>

#include "draft.h"
#include "draft_file.h"
#include "draft_store.h"

static int set_delay(struct draft *draft, const char *value, size_t bytes)
{
	char text[24], *end;
	if (bytes == 0 || bytes >= sizeof(text) || value[0] < '0' || value[0] > '9')
		return -EINVAL;
	memcpy(text, value, bytes);
	text[bytes] = '\0';
	errno = 0;
	long long delay_ms = strtoll(text, &end, 10);
	if (errno || *end || delay_ms > DELAY_MAX_MS)
		return -EINVAL;
	draft->delay_ms = delay_ms;
	return 0;
}

bool draft_xattr_away(struct fs *fs, struct node *node)
{
	fs_lock(fs);
	bool away = draft_is_away(node->object);
	fs_unlock(fs);
	return away;
}

void draft_xattr_fetch(struct fs *fs, fuse_req_t req, struct node *node, struct fetch *fetch)
{
	draft_fetch(fs, req, node->object, fetch);
}

/* 1: its properties may be changed; else what to answer. (locked) */
static int check_changeable(const struct draft *draft)
{
	if (draft->published || !draft->message)
		return 0; /* what comes after publishing changes nothing (P5) */
	return draft->state == DRAFT_SENDING || draft->state == DRAFT_QUEUED ? -EBUSY : 1;
}

int draft_xattr_set(struct fs *fs, struct node *node, const char *name, const char *value, size_t bytes)
{
	struct draft *draft = node->object;
	fs_lock(fs);
	int result = check_changeable(draft);
	if (result == 1) {
		if (strcmp(name, "error") == 0)
			result = -EPERM;
		else if (strcmp(name, "delay") == 0)
			result = set_delay(draft, value, bytes);
		else
			result = mqfs_property_set(draft->message, name, value, bytes);
		if (result == 0)
			draft_changed(draft);
	}
	fs_unlock(fs);
	return result;
}

static int copy_text(const char *text, char **ret_value, size_t *ret_bytes)
{
	*ret_value = strdup(text);
	*ret_bytes = strlen(text);
	return *ret_value ? 0 : -ENOMEM;
}

/* user.mqfs.error: the words for the errno, and the broker's. */
static int copy_error(const struct draft *draft, char **ret_value, size_t *ret_bytes)
{
	char *text;
	if (draft->state != DRAFT_KEPT)
		return -ENODATA;
	int length = asprintf(&text, "%s%s%s", strerror(draft->error), draft->reason ? ": " : "",
	                      draft->reason ? draft->reason : "");
	if (length < 0)
		return -ENOMEM;
	*ret_value = text;
	*ret_bytes = (size_t)length;
	return 0;
}

int draft_xattr_get(struct fs *fs, struct node *node, const char *name, char **ret_value, size_t *ret_bytes)
{
	struct draft *draft = node->object;
	char text[24];
	int result = -ENODATA;
	fs_lock(fs);
	if (strcmp(name, "error") == 0) {
		result = copy_error(draft, ret_value, ret_bytes);
	} else if (draft->message && strcmp(name, "delay") == 0) {
		snprintf(text, sizeof(text), "%lld", (long long)draft->delay_ms);
		result = draft->delay_ms ? copy_text(text, ret_value, ret_bytes) : -ENODATA;
	} else if (draft->message) {
		result = mqfs_property_get(draft->message, name, ret_value, ret_bytes);
	}
	fs_unlock(fs);
	return result;
}

int draft_xattr_remove(struct fs *fs, struct node *node, const char *name)
{
	struct draft *draft = node->object;
	fs_lock(fs);
	int result = check_changeable(draft);
	if (result == 0) {
		result = -ENODATA;
	} else if (result == 1 && strcmp(name, "delay") == 0) {
		result = draft->delay_ms ? 0 : -ENODATA;
		draft->delay_ms = 0;
	} else if (result == 1) {
		result = strcmp(name, "error") == 0 ? -ENODATA : mqfs_property_remove(draft->message, name);
	}
	if (result == 0)
		draft_changed(draft);
	fs_unlock(fs);
	return result;
}

void draft_xattr_list(struct fs *fs, struct node *node, void (*each)(const char *name, void *arg), void *arg)
{
	struct draft *draft = node->object;
	fs_lock(fs);
	if (draft->message)
		mqfs_property_each(draft->message, each, arg);
	if (draft->state == DRAFT_KEPT)
		each("error", arg);
	if (draft->delay_ms)
		each("delay", arg);
	fs_unlock(fs);
}
