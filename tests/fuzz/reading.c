/* SPDX-License-Identifier: MIT */
#include "fuzz.h"

#include <cjson/cJSON.h>

#include <mqfs/delivery.h>
#include <mqfs/failure.h>
#include <mqfs/meta.h>
#include <mqfs/name.h>
#include <mqfs/property.h>
#include <mqfs/settings.h>

#include "utf8.h"

#define COUNT_MAX INT64_C(1000000000) /* failure.c's */
#define ERROR_MAX 4096
#define NOW_US INT64_C(1800000000000000)

/* ---- meta.json ---- */

static size_t count_key(const cJSON *object, const char *key)
{
	const cJSON *item;
	size_t count = 0;

	cJSON_ArrayForEach(item, object) count += strcmp(item->string, key) == 0;
	return count;
}

static void expect_meta(const char *text, const struct mqfs_message *message)
{
	static const char *const keys[] = {
	    "id",           "queue",   "state",           "priority",       "attempts",   "max_attempts",
	    "published_at", "next_at", "first_failed_at", "last_failed_at", "dead_at",    "error",
	    "dead_reason",  "host",    "redelivered",     "claimed_by",     "claimed_at", "expires_at",
	    "properties",   "headers", "x_death",
	};
	size_t bytes = strlen(text);
	cJSON *meta = cJSON_Parse(text);
	const cJSON *id;

	EXPECT(bytes > 0 && text[bytes - 1] == '\n' && utf8_is_valid(text, bytes));
	EXPECT(meta && cJSON_IsObject(meta));
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		EXPECT(count_key(meta, keys[i]) == 1);
	EXPECT(cJSON_GetArraySize(meta) == sizeof(keys) / sizeof(keys[0]));
	id = cJSON_GetObjectItemCaseSensitive(meta, "id");
	EXPECT(message->message_id ? cJSON_IsString(id) : cJSON_IsNull(id));
	EXPECT(cJSON_IsArray(cJSON_GetObjectItemCaseSensitive(meta, "x_death")));
	EXPECT(cJSON_GetObjectItemCaseSensitive(meta, "attempts")->valuedouble <= (double)COUNT_MAX + 1);
	cJSON_Delete(meta);
}

static void expect_meta_in(const struct mqfs_message *message, enum mqfs_place place, enum mqfs_delivery_state state)
{
	struct mqfs_delivery *delivery = mqfs_delivery_new(mqfs_message_copy(message), "q");
	struct mqfs_settings settings;
	char *text;

	EXPECT(delivery && delivery->message);
	mqfs_settings_init(&settings);
	delivery->place = place;
	delivery->state = state;
	text = mqfs_meta_json(delivery, &settings);
	EXPECT(text);
	expect_meta(text, message);
	free(text);
	mqfs_delivery_unref(delivery);
}

/* ---- names ---- */

static void expect_name(const char *name)
{
	size_t bytes = strlen(name);

	EXPECT(bytes > 0 && bytes <= MQFS_MESSAGE_NAME_MAX - 4);
	EXPECT(name[0] != '.' && !strchr(name, '/') && utf8_is_valid(name, bytes));
	for (size_t i = 0, length; i < bytes; i += length) {
		length = utf8_length(name + i, bytes - i);
		EXPECT(!utf8_is_control(name + i, length));
	}
}

static void expect_names(const struct mqfs_message *message)
{
	mqfs_name_t name, again;

	mqfs_name_message(NOW_US, message, name);
	expect_name(name);
	mqfs_name_kept_message(message, name);
	expect_name(name);
	mqfs_name_kept_message(message, again);
	EXPECT(strcmp(name, again) == 0);
}

/* ---- extended attributes ---- */

static void read_property(const char *name, void *arg)
{
	const struct mqfs_message *message = arg;
	size_t bytes;
	char *text;

	EXPECT(name[0]);
	EXPECT(mqfs_property_get(message, name, &text, &bytes) == 0);
	EXPECT(text[bytes] == '\0');
	free(text);
}

/* ---- copies ---- */

static const char *header(const struct mqfs_message *message, const char *name)
{
	return mqfs_headers_string(&message->headers, name);
}

/* What holds for every copy. The reference is given up. */
static void expect_copy(struct mqfs_message *copy, const struct mqfs_message *message)
{
	EXPECT(copy->message_id && header(copy, "mqfs-copy"));
	EXPECT(!message->message_id || strcmp(copy->message_id, message->message_id) == 0);
	EXPECT(!header(message, "mqfs-copy") || strcmp(header(copy, "mqfs-copy"), header(message, "mqfs-copy")) != 0);
	EXPECT(copy->body == message->body && copy->delivery_mode == 2 && !copy->user_id);
	EXPECT(!mqfs_headers_get(&copy->headers, "x-death") && !mqfs_headers_get(&copy->headers, "x-delivery-count"));
	expect_meta_in(copy, MQFS_PLACE_RETRY, MQFS_DELIVERY_PENDING);
	mqfs_message_free(copy);
}

/* A copy that stays in mqfs's hands: what would make the broker drop it or send it elsewhere is parked. */
static struct mqfs_history expect_parked(struct mqfs_message *copy, const struct mqfs_message *message)
{
	struct mqfs_history history;

	EXPECT(copy);
	EXPECT(!copy->expiration);
	EXPECT(!mqfs_headers_get(&copy->headers, "CC") && !mqfs_headers_get(&copy->headers, "BCC"));
	EXPECT(copy->priority == message->priority);
	mqfs_history_read(copy, &history);
	history.error = history.host = history.dead_reason = NULL; /* they go with the copy */
	expect_copy(copy, message);
	return history;
}

static int64_t at_most(int64_t count, int64_t most)
{
	return count < most ? count : most;
}

/* A reason that was set just now. */
static struct mqfs_message *expect_reason(struct mqfs_message *copy)
{
	const char *error = copy ? header(copy, "mqfs-error") : NULL;

	EXPECT(!error || (strlen(error) <= ERROR_MAX && utf8_is_valid(error, strlen(error))));
	return copy;
}

static void expect_failing(const struct mqfs_message *message, const struct mqfs_history *before)
{
	struct mqfs_failed_attempt attempt = {
	    .attempts = before->attempts + 1,
	    .now_us = NOW_US,
	    .next_at_us = NOW_US + 1000000,
	    .error = before->error ? before->error : "none",
	    .dead_reason = "max-attempts",
	    .host = "host",
	    .queue = "q",
	};
	int64_t attempts = at_most(attempt.attempts, COUNT_MAX);
	struct mqfs_history after;

	after = expect_parked(expect_reason(mqfs_copy_for_retry(message, &attempt)), message);
	EXPECT(after.attempts == attempts && after.last_failed_us == NOW_US && after.next_at_us == attempt.next_at_us);
	EXPECT(after.dead_at_us == 0);
	after = expect_parked(expect_reason(mqfs_copy_for_dead(message, &attempt)), message);
	EXPECT(after.attempts == attempts && after.dead_at_us == NOW_US && after.next_at_us == 0);
	attempt.attempts = before->attempts; /* given up while waiting: not counted */
	after = expect_parked(mqfs_copy_for_dead(message, &attempt), message);
	EXPECT(after.attempts == before->attempts && after.last_failed_us == before->last_failed_us);
}

static bool is_list_of_strings(const struct mqfs_value *value)
{
	for (size_t i = 0; value->kind == 'A' && i < value->array.count; i++)
		if (value->array.values[i].kind != 'S')
			return false;
	return value->kind == 'A';
}

static void expect_afresh(const struct mqfs_message *message)
{
	struct mqfs_message *copy = mqfs_copy_afresh(message, -1, NOW_US);
	static const char *const lists[] = {"CC", "BCC"};
	struct mqfs_history history;

	EXPECT(copy);
	mqfs_history_read(copy, &history);
	EXPECT(history.attempts == 0 && history.max_attempts == 0 && history.published_us == NOW_US);
	EXPECT(!history.dead_reason && !history.error && !history.host && history.next_at_us == 0);
	for (size_t i = 0; i < 2; i++) {
		const struct mqfs_value *list = mqfs_headers_get(&copy->headers, lists[i]);

		EXPECT(!list || is_list_of_strings(list));
	}
	EXPECT(!copy->expiration || strspn(copy->expiration, "0123456789") == strlen(copy->expiration));
	expect_copy(copy, message);
}

void expect_readable(const struct mqfs_message *message)
{
	struct mqfs_message *stamped;
	struct mqfs_history history, after;

	mqfs_history_read(message, &history);
	EXPECT(history.attempts >= 0 && history.attempts <= COUNT_MAX);
	EXPECT(history.max_attempts >= 0 && history.max_attempts <= COUNT_MAX);
	EXPECT(history.published_us >= 0 && history.first_failed_us >= 0 && history.last_failed_us >= 0);
	EXPECT(history.next_at_us >= 0 && history.dead_at_us >= 0);
	expect_meta_in(message, MQFS_PLACE_READY, MQFS_DELIVERY_CLAIMED);
	expect_meta_in(message, MQFS_PLACE_DEAD, MQFS_DELIVERY_PENDING);
	expect_names(message);
	mqfs_property_each(message, read_property, (void *)message);
	expect_failing(message, &history);
	after = expect_parked(mqfs_copy_for_release(message, 0), message);
	EXPECT(after.attempts == history.attempts);
	after = expect_parked(mqfs_copy_for_grant(message, NOW_US), message);
	EXPECT(after.attempts == history.attempts && after.max_attempts == at_most(history.attempts + 1, COUNT_MAX));
	expect_afresh(message);
	stamped = mqfs_message_copy(message);
	EXPECT(stamped && mqfs_message_stamp(stamped, "x.json", NOW_US) == 0);
	EXPECT(stamped->content_type && stamped->message_id && stamped->timestamp == NOW_US / 1000000);
	mqfs_message_free(stamped);
}
