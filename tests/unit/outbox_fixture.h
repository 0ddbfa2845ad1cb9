/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_UNIT_OUTBOX_FIXTURE_H
#define MQFS_TESTS_UNIT_OUTBOX_FIXTURE_H

/* An outbox in front of the embedded store, and a watcher that remembers what it was told. */
#include "state_fixture.h"

#include <mqfs/outbox.h>

enum { SEEN_MAX = 4096 };

struct seen {
	int64_t id;
	struct mqfs_entry entry;
	mqfs_name_t name;
	char queue[64];
	char reason[256];
	bool removed, sent;
	int refused;
};

/* Guarded by lock. */
struct watching {
	struct seen entries[SEEN_MAX];
	size_t count;
	int told, sent, removed, refused;
};

static inline struct seen *seen_find(struct watching *watching, int64_t id)
{
	for (size_t i = 0; i < watching->count; i++)
		if (watching->entries[i].id == id)
			return &watching->entries[i];
	return NULL;
}

static inline void watching_changed(void *arg, const struct mqfs_entry *entry)
{
	struct watching *watching = arg;
	struct seen *seen;

	pthread_mutex_lock(&lock);
	seen = seen_find(watching, entry->id);
	if (!seen) {
		assert_true(watching->count < SEEN_MAX);
		seen = &watching->entries[watching->count++];
		*seen = (struct seen){.id = entry->id};
	}
	seen->entry = *entry;
	snprintf(seen->name, sizeof(seen->name), "%s", entry->name);
	snprintf(seen->queue, sizeof(seen->queue), "%s", entry->queue);
	snprintf(seen->reason, sizeof(seen->reason), "%s", entry->reason ? entry->reason : "");
	watching->told++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void watching_removed(void *arg, int64_t id, bool sent)
{
	struct watching *watching = arg;
	struct seen *seen;

	pthread_mutex_lock(&lock);
	seen = seen_find(watching, id);
	if (seen) {
		seen->removed = true;
		seen->sent = sent;
	}
	watching->removed += !sent;
	watching->sent += sent;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void watching_refused(void *arg, const struct mqfs_entry *entry)
{
	struct watching *watching = arg;

	pthread_mutex_lock(&lock);
	seen_find(watching, entry->id)->refused++;
	watching->refused++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static const struct mqfs_outbox_watcher watcher = {
    .changed = watching_changed, .removed = watching_removed, .refused = watching_refused};

static struct mqfs_outbox_limits limits = {.max_bytes = INT64_C(1) << 30, .publish_timeout_ms = 1000};

static inline struct mqfs_outbox *open_outbox(struct mqfs_state *state, struct mqfs_backend *backend,
                                              struct watching *watching)
{
	struct mqfs_outbox *outbox = NULL;

	assert_int_equal(mqfs_outbox_open(state, backend, &limits, &watcher, watching, &outbox), 0);
	return outbox;
}

struct putting {
	bool done;
	int result;
	int64_t id;
	mqfs_name_t name;
	struct mqfs_message *message;
};

static inline void putting_end(struct putting *putting, int result)
{
	pthread_mutex_lock(&lock);
	putting->result = result;
	putting->done = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void putting_done(void *arg, int result, int64_t id, const char *name)
{
	struct putting *putting = arg;

	putting->id = id;
	snprintf(putting->name, sizeof(putting->name), "%s", name ? name : "");
	putting_end(putting, result);
}

static inline void putting_removed(void *arg, int result, const char *reason)
{
	(void)reason;
	putting_end(arg, result);
}

static inline void putting_loaded(void *arg, int result, struct mqfs_message *message)
{
	((struct putting *)arg)->message = message;
	putting_end(arg, result);
}

static inline int putting_wait(struct putting *putting)
{
	assert_true(WAIT_UNTIL(putting->done, ENOUGH_MS));
	return putting->result;
}

static inline struct mqfs_entry entry_of(const char *queue, const char *name, enum mqfs_entry_kind kind)
{
	return (struct mqfs_entry){.kind = kind,
	                           .queue = queue,
	                           .priority = -1,
	                           .name = name,
	                           .mode = 0640,
	                           .modified_us = mqfs_clock_realtime_us()};
}

/* A message with an id. */
static inline struct mqfs_message *identified(const char *body)
{
	struct mqfs_message *message = unit_message(body);
	char id[MQFS_UUID_BYTES];

	assert_int_equal(mqfs_message_set_string(&message->message_id, mqfs_uuid(id)), 0);
	return message;
}

static inline int put_entry(struct mqfs_outbox *outbox, const struct mqfs_entry *entry, struct mqfs_message *message,
                            struct putting *ret_putting)
{
	*ret_putting = (struct putting){0};
	mqfs_outbox_put(outbox, entry, message, in_ms(ENOUGH_MS), putting_done, ret_putting);
	return putting_wait(ret_putting);
}

/* Its id; must be taken. */
static inline int64_t put(struct mqfs_outbox *outbox, const char *queue, const char *name, const char *body,
                          enum mqfs_entry_kind kind)
{
	struct mqfs_entry entry = entry_of(queue, name, kind);
	struct putting putting;

	assert_int_equal(put_entry(outbox, &entry, identified(body), &putting), 0);
	return putting.id;
}

static inline int change_entry(struct mqfs_outbox *outbox, const struct mqfs_entry *entry, struct mqfs_message *message,
                               struct putting *ret_putting)
{
	*ret_putting = (struct putting){0};
	mqfs_outbox_change(outbox, entry, message, in_ms(ENOUGH_MS), putting_done, ret_putting);
	return putting_wait(ret_putting);
}

static inline int remove_entry(struct mqfs_outbox *outbox, int64_t id)
{
	struct putting putting = {0};

	mqfs_outbox_remove(outbox, id, in_ms(ENOUGH_MS), putting_removed, &putting);
	return putting_wait(&putting);
}

static inline struct mqfs_message *load_entry(struct mqfs_outbox *outbox, int64_t id, int *ret_result)
{
	struct putting putting = {0};

	mqfs_outbox_load(outbox, id, in_ms(ENOUGH_MS), putting_loaded, &putting);
	*ret_result = putting_wait(&putting);
	return putting.message;
}

static inline bool message_is(const struct mqfs_message *message, const char *body)
{
	return message && message->body->bytes == strlen(body) && memcmp(message->body->data, body, strlen(body)) == 0;
}

#endif
