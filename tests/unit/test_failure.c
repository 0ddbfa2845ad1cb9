/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <mqfs/failure.h>

#define NOW INT64_C(1769860800000042)
#define LATER (NOW + 5000000)

static struct mqfs_value death(const char *queue, const char *reason, int64_t count, int64_t seconds)
{
	struct mqfs_table table = {0};

	unit_add(&table, "count", (struct mqfs_value){.kind = 'l', .integer = count});
	unit_add(&table, "reason", unit_text(reason));
	unit_add(&table, "queue", unit_text(queue));
	unit_add(&table, "time", (struct mqfs_value){.kind = 'T', .integer = seconds});
	unit_add(&table, "exchange", unit_text(""));
	return (struct mqfs_value){.kind = 'F', .table = table};
}

static void add_deaths(struct mqfs_message *message, size_t count, struct mqfs_value *deaths)
{
	struct mqfs_array array = {0};

	for (size_t i = 0; i < count; i++)
		unit_push(&array, deaths[i]);
	unit_add(&message->headers, "x-death", (struct mqfs_value){.kind = 'A', .array = array});
}

/* Everything that a copy must not carry, and everything that it must keep. */
static struct mqfs_message *make_loaded(void)
{
	struct mqfs_message *message = unit_message("body");
	struct mqfs_array cc = {0};
	struct mqfs_value deaths[] = {death("jobs", "rejected", 3, 1700000000)};

	mqfs_message_set_string(&message->message_id, "the-id");
	mqfs_message_set_string(&message->correlation_id, "correlation");
	mqfs_message_set_string(&message->expiration, "60000");
	mqfs_message_set_string(&message->user_id, "guest");
	message->priority = 7;
	message->timestamp = 1600000000;
	message->delivery_mode = 1;
	unit_push(&cc, unit_text("copy-to"));
	unit_add(&message->headers, "CC", (struct mqfs_value){.kind = 'A', .array = cc});
	cc = (struct mqfs_array){0};
	unit_push(&cc, unit_text("blind"));
	unit_add(&message->headers, "BCC", (struct mqfs_value){.kind = 'A', .array = cc});
	add_deaths(message, 1, deaths);
	unit_add(&message->headers, "x-first-death-reason", unit_text("rejected"));
	unit_add(&message->headers, "x-first-death-queue", unit_text("jobs"));
	unit_add(&message->headers, "x-last-death-reason", unit_text("rejected"));
	unit_add(&message->headers, "x-delivery-count", (struct mqfs_value){.kind = 'l', .integer = 4});
	unit_add(&message->headers, "x-other", unit_text("foreign"));
	unit_add(&message->headers, "trace", unit_text("abc"));
	mqfs_headers_set_string(&message->headers, "mqfs-copy", "old-copy");
	mqfs_headers_set_string(&message->headers, "mqfs-filename", "a.txt");
	return message;
}

static const char *text_of(const struct mqfs_message *message, const char *name)
{
	return mqfs_headers_string(&message->headers, name);
}

static int64_t integer_of(const struct mqfs_message *message, const char *name)
{
	return mqfs_headers_integer(&message->headers, name, -1);
}

static const char *first_of(const struct mqfs_message *message, const char *name)
{
	const struct mqfs_value *list = mqfs_headers_get(&message->headers, name);

	assert_non_null(list);
	assert_int_equal(list->kind, 'A');
	assert_int_equal(list->array.count, 1);
	return list->array.values[0].bytes.data;
}

/* What holds for all copies alike. */
static void check_copy(const struct mqfs_message *copy, const struct mqfs_message *message)
{
	assert_non_null(copy);
	assert_ptr_equal(copy->body, message->body);
	assert_string_equal(copy->message_id, "the-id");
	assert_string_equal(copy->correlation_id, "correlation");
	assert_string_equal(text_of(copy, "trace"), "abc");
	assert_string_equal(text_of(copy, "x-other"), "foreign");
	assert_string_equal(text_of(copy, "mqfs-filename"), "a.txt");
	assert_int_equal(copy->delivery_mode, 2);
	assert_null(copy->user_id);
	assert_string_equal(text_of(copy, "mqfs-user-id"), "guest");
	assert_string_not_equal(text_of(copy, "mqfs-copy"), "old-copy");
	assert_int_equal(strlen(text_of(copy, "mqfs-copy")), 36);
	assert_null(mqfs_headers_get(&copy->headers, "x-death"));
	assert_null(mqfs_headers_get(&copy->headers, "x-first-death-reason"));
	assert_null(mqfs_headers_get(&copy->headers, "x-first-death-queue"));
	assert_null(mqfs_headers_get(&copy->headers, "x-last-death-reason"));
	assert_null(mqfs_headers_get(&copy->headers, "x-delivery-count"));
}

static void check_parked(const struct mqfs_message *copy)
{
	assert_null(copy->expiration);
	assert_null(mqfs_headers_get(&copy->headers, "CC"));
	assert_null(mqfs_headers_get(&copy->headers, "BCC"));
	assert_string_equal(text_of(copy, "mqfs-expiration"), "60000");
	assert_string_equal(first_of(copy, "mqfs-cc"), "copy-to");
	assert_string_equal(first_of(copy, "mqfs-bcc"), "blind");
	assert_int_equal(copy->priority, 7);
	assert_int_equal(copy->timestamp, 1600000000);
}

static const struct mqfs_failed_attempt attempt = {
    .attempts = 4,
    .now_us = NOW,
    .next_at_us = LATER,
    .error = "it broke",
    .dead_reason = "max-attempts",
    .host = "host.example",
    .queue = "jobs",
};

static void copy_for_retry(void **state)
{
	struct mqfs_message *message = make_loaded(), *copy = mqfs_copy_for_retry(message, &attempt);

	(void)state;
	check_copy(copy, message);
	check_parked(copy);
	assert_int_equal(integer_of(copy, "mqfs-attempts"), 4);
	assert_int_equal(integer_of(copy, "mqfs-first-failed"), INT64_C(1700000000000000));
	assert_int_equal(integer_of(copy, "mqfs-last-failed"), NOW);
	assert_int_equal(integer_of(copy, "mqfs-next-at"), LATER);
	assert_string_equal(text_of(copy, "mqfs-error"), "it broke");
	assert_string_equal(text_of(copy, "mqfs-host"), "host.example");
	assert_string_equal(text_of(copy, "mqfs-queue"), "jobs");
	assert_null(text_of(copy, "mqfs-dead-reason"));
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-dead-at"));
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-x-death"));
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void copy_for_dead(void **state)
{
	struct mqfs_message *message = make_loaded(), *copy;
	const struct mqfs_value *deaths;

	(void)state;
	mqfs_headers_set_integer(&message->headers, "mqfs-next-at", NOW);
	copy = mqfs_copy_for_dead(message, &attempt);
	check_copy(copy, message);
	check_parked(copy);
	assert_int_equal(integer_of(copy, "mqfs-attempts"), 4);
	assert_int_equal(integer_of(copy, "mqfs-dead-at"), NOW);
	assert_string_equal(text_of(copy, "mqfs-dead-reason"), "max-attempts");
	assert_string_equal(text_of(copy, "mqfs-error"), "it broke");
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-next-at"));
	deaths = mqfs_headers_get(&copy->headers, "mqfs-x-death");
	assert_non_null(deaths);
	assert_int_equal(deaths->array.count, 1);
	assert_string_equal(mqfs_headers_string(&deaths->array.values[0].table, "reason"), "rejected");
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

/* What a look puts back by republishing is the same to the next one. */
static void copy_for_dead_again(void **state)
{
	struct mqfs_message *message = make_loaded(), *copy;
	struct mqfs_history before, after;

	(void)state;
	mqfs_headers_set_string(&message->headers, "mqfs-copy", "this very one");
	copy = mqfs_copy_for_dead_again(message);
	check_parked(copy);
	assert_ptr_equal(copy->body, message->body);
	assert_string_equal(copy->message_id, message->message_id);
	assert_string_equal(text_of(copy, "mqfs-copy"), "this very one");
	assert_null(mqfs_headers_get(&copy->headers, "x-death"));
	assert_non_null(mqfs_headers_get(&copy->headers, "mqfs-x-death"));
	mqfs_history_read(message, &before);
	mqfs_history_read(copy, &after);
	assert_int_equal(after.attempts, before.attempts);
	assert_int_equal(after.first_failed_us, before.first_failed_us);
	assert_int_equal(after.last_failed_us, before.last_failed_us);
	assert_int_equal(after.dead_at_us, before.dead_at_us);
	assert_non_null(before.dead_reason);
	assert_string_equal(after.dead_reason, before.dead_reason);
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void copy_for_release(void **state)
{
	struct mqfs_message *message = make_loaded(), *copy;

	(void)state;
	mqfs_headers_set_string(&message->headers, "mqfs-error", "earlier");
	mqfs_headers_set_integer(&message->headers, "mqfs-max-attempts", 12);
	mqfs_headers_set_integer(&message->headers, "mqfs-next-at", LATER);
	copy = mqfs_copy_for_release(message, 0);
	check_copy(copy, message);
	check_parked(copy);
	assert_int_equal(integer_of(copy, "mqfs-attempts"), 3); /* what x-death told goes on */
	assert_int_equal(integer_of(copy, "mqfs-last-failed"), INT64_C(1700000000000000));
	assert_int_equal(integer_of(copy, "mqfs-max-attempts"), 12);
	assert_string_equal(text_of(copy, "mqfs-error"), "earlier");
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-next-at"));
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void copy_for_release_counts_nothing(void **state)
{
	struct mqfs_message *message = unit_message(""), *copy = mqfs_copy_for_release(message, 0);

	(void)state;
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-attempts"));
	assert_int_equal(strlen(copy->message_id), 36); /* one is made */
	assert_null(message->message_id);
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void copy_for_grant(void **state)
{
	struct mqfs_message *message = make_loaded(), *dead = mqfs_copy_for_dead(message, &attempt);
	struct mqfs_message *copy = mqfs_copy_for_grant(dead, LATER);

	(void)state;
	check_copy(copy, message);
	check_parked(copy);
	assert_int_equal(integer_of(copy, "mqfs-attempts"), 4);
	assert_int_equal(integer_of(copy, "mqfs-max-attempts"), 5);
	assert_int_equal(integer_of(copy, "mqfs-next-at"), LATER);
	assert_string_equal(text_of(copy, "mqfs-error"), "it broke");
	assert_null(text_of(copy, "mqfs-dead-reason"));
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-dead-at"));
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-x-death"));
	assert_string_not_equal(text_of(copy, "mqfs-copy"), text_of(dead, "mqfs-copy"));
	mqfs_message_free(message);
	mqfs_message_free(dead);
	mqfs_message_free(copy);
}

static void copy_for_grant_of_a_foreign_one(void **state)
{
	struct mqfs_message *message = make_loaded(), *copy = mqfs_copy_for_grant(message, 0);

	(void)state;
	assert_int_equal(integer_of(copy, "mqfs-attempts"), 3);
	assert_int_equal(integer_of(copy, "mqfs-max-attempts"), 4);
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-next-at"));
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void copy_afresh(void **state)
{
	struct mqfs_message *message = make_loaded(), *dead = mqfs_copy_for_dead(message, &attempt);
	struct mqfs_message *copy = mqfs_copy_afresh(dead, -1, LATER);
	struct mqfs_history history;

	(void)state;
	check_copy(copy, message);
	assert_string_equal(copy->expiration, "60000");
	assert_string_equal(first_of(copy, "CC"), "copy-to");
	assert_string_equal(first_of(copy, "BCC"), "blind");
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-expiration"));
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-cc"));
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-bcc"));
	assert_int_equal(copy->priority, 7);
	assert_int_equal(copy->timestamp, LATER / 1000000);

	mqfs_history_read(copy, &history);
	assert_int_equal(history.attempts, 0);
	assert_int_equal(history.max_attempts, 0);
	assert_int_equal(history.published_us, LATER);
	assert_int_equal(history.first_failed_us, 0);
	assert_int_equal(history.last_failed_us, 0);
	assert_int_equal(history.next_at_us, 0);
	assert_int_equal(history.dead_at_us, 0);
	assert_null(history.dead_reason);
	assert_null(history.error);
	assert_null(history.host);
	assert_null(text_of(copy, "mqfs-queue"));
	assert_null(mqfs_headers_get(&copy->headers, "mqfs-x-death"));
	mqfs_message_free(message);
	mqfs_message_free(dead);
	mqfs_message_free(copy);
}

static void copy_afresh_at_a_priority(void **state)
{
	struct mqfs_message *message = make_loaded(), *copy = mqfs_copy_afresh(message, 0, NOW);

	(void)state;
	assert_int_equal(copy->priority, 0);
	assert_string_equal(copy->expiration, "60000"); /* also when it was never parked */
	assert_string_equal(first_of(copy, "CC"), "copy-to");
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

/* A stranger wrote our headers: a broker would close the channel for what they hold. */
static void copy_afresh_drops_what_brokers_refuse(void **state)
{
	static const char *const bad[] = {"", "soon", "-1", "4294967296", "1.5"};
	struct mqfs_array list = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct mqfs_message *message = unit_message(""), *copy;

		mqfs_headers_set_string(&message->headers, "mqfs-expiration", bad[i]);
		mqfs_headers_set_string(&message->headers, "mqfs-cc", "no list");
		list = (struct mqfs_array){0};
		unit_push(&list, unit_text("good"));
		unit_push(&list, (struct mqfs_value){.kind = 'l', .integer = 1});
		unit_add(&message->headers, "mqfs-bcc", (struct mqfs_value){.kind = 'A', .array = list});
		copy = mqfs_copy_afresh(message, -1, NOW);
		assert_null(copy->expiration);
		assert_null(mqfs_headers_get(&copy->headers, "CC"));
		assert_null(mqfs_headers_get(&copy->headers, "BCC"));
		assert_null(mqfs_headers_get(&copy->headers, "mqfs-expiration"));
		assert_null(mqfs_headers_get(&copy->headers, "mqfs-cc"));
		assert_null(mqfs_headers_get(&copy->headers, "mqfs-bcc"));
		mqfs_message_free(message);
		mqfs_message_free(copy);
	}
}

static void expirations_at_the_bounds_come_back(void **state)
{
	static const char *const good[] = {"0", "4294967295"};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct mqfs_message *message = unit_message(""), *parked, *copy;

		mqfs_message_set_string(&message->expiration, good[i]);
		parked = mqfs_copy_for_release(message, 0);
		copy = mqfs_copy_afresh(parked, -1, NOW);
		assert_string_equal(copy->expiration, good[i]);
		mqfs_message_free(message);
		mqfs_message_free(parked);
		mqfs_message_free(copy);
	}
}

static void drops_twins_too(void **state)
{
	struct mqfs_message *message = make_loaded(), *copy;

	(void)state;
	unit_add(&message->headers, "CC", unit_text("twin"));
	unit_add(&message->headers, "x-death", unit_text("twin"));
	copy = mqfs_copy_for_retry(message, &attempt);
	check_copy(copy, message);
	check_parked(copy);
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void drops_triplets_and_nothing_else(void **state)
{
	struct mqfs_message *message = unit_message("body"), *copy;

	(void)state;
	for (int i = 0; i < 3; i++) {
		unit_add(&message->headers, "x-death", unit_text("same"));
		unit_add(&message->headers, "x-last-death-queue", unit_text("same"));
	}
	copy = mqfs_copy_for_release(message, 0);
	assert_int_equal(copy->headers.count, 1);
	assert_string_equal(copy->headers.fields[0].name, "mqfs-copy");
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void history_of_several_failures(void **state)
{
	struct mqfs_message *message = unit_message(""), *first, *second;
	struct mqfs_failed_attempt failed = {.attempts = 1, .now_us = NOW, .next_at_us = NOW + 1, .error = "one"};
	struct mqfs_history history;

	(void)state;
	first = mqfs_copy_for_retry(message, &failed);
	failed = (struct mqfs_failed_attempt){.attempts = 2, .now_us = LATER, .next_at_us = LATER + 1};
	second = mqfs_copy_for_retry(first, &failed);
	mqfs_history_read(second, &history);
	assert_int_equal(history.attempts, 2);
	assert_int_equal(history.first_failed_us, NOW);
	assert_int_equal(history.last_failed_us, LATER);
	assert_int_equal(history.next_at_us, LATER + 1);
	assert_null(history.error); /* the second had none: the first's would mislead */
	assert_string_equal(first->message_id, second->message_id);
	mqfs_message_free(message);
	mqfs_message_free(first);
	mqfs_message_free(second);
}

/* mv retry/X dead/: nothing failed just now. */
static void burial_without_an_attempt_keeps_the_reason(void **state)
{
	struct mqfs_message *message = unit_message(""), *first, *dead;
	struct mqfs_failed_attempt failed = {.attempts = 2, .now_us = NOW, .error = "one"};
	struct mqfs_history history;

	(void)state;
	first = mqfs_copy_for_retry(message, &failed);
	failed = (struct mqfs_failed_attempt){.attempts = 2, .now_us = LATER, .dead_reason = "rejected"};
	dead = mqfs_copy_for_dead(first, &failed);
	mqfs_history_read(dead, &history);
	assert_int_equal(history.attempts, 2);
	assert_int_equal(history.last_failed_us, NOW);
	assert_int_equal(history.dead_at_us, LATER);
	assert_string_equal(history.dead_reason, "rejected");
	assert_string_equal(history.error, "one");
	mqfs_message_free(message);
	mqfs_message_free(first);
	mqfs_message_free(dead);
}

static void check_error(const char *error, const char *expected)
{
	struct mqfs_message *message = unit_message(""), *copy;
	struct mqfs_failed_attempt failed = {.attempts = 1, .now_us = NOW, .error = error};

	copy = mqfs_copy_for_retry(message, &failed);
	if (expected)
		assert_string_equal(text_of(copy, "mqfs-error"), expected);
	else
		assert_null(mqfs_headers_get(&copy->headers, "mqfs-error"));
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void errors_are_bounded_text(void **state)
{
	static char text[10001];
	char *expected;

	(void)state;
	check_error(NULL, NULL);
	check_error("", NULL);
	check_error("\xff!", "\xef\xbf\xbd!");
	memset(text, 'x', 10000);
	memcpy(text + 9990, "last words", 10);
	check_error(text, text + 10000 - 4096);

	memset(text, 'x', 5001);
	text[5001] = '\0';
	memcpy(text + 904, "\xe2\x82\xac", 3); /* the cut falls into it */
	check_error(text, text + 907);

	memset(text, '\xff', 5000); /* each byte becomes three */
	text[5000] = '\0';
	expected = malloc(4096);
	for (int i = 0; i < 1365; i++)
		memcpy(expected + 3 * i, "\xef\xbf\xbd", 4);
	check_error(text, expected);
	free(expected);
}

static void reads_foreign_dead_letters(void **state)
{
	struct mqfs_message *message = unit_message("");
	struct mqfs_value deaths[] = {death("wait", "expired", 5, 1700000300), death("jobs", "rejected", 3, 1700000200),
	                              death("older", "rejected", 2, 1700000100),
	                              death("odd", "rejected", 0, 1700000050)};
	struct mqfs_history history;

	(void)state;
	message->timestamp = 1690000000;
	add_deaths(message, 4, deaths);
	mqfs_history_read(message, &history);
	assert_int_equal(history.attempts, 5); /* what expired was not tried, nor what was rejected 0 times */
	assert_int_equal(history.first_failed_us, INT64_C(1700000100000000));
	assert_int_equal(history.last_failed_us, INT64_C(1700000200000000));
	assert_int_equal(history.dead_at_us, INT64_C(1700000300000000));
	assert_string_equal(history.dead_reason, "expired");
	assert_int_equal(history.published_us, INT64_C(1690000000000000));
	assert_null(history.error);
	mqfs_message_free(message);
}

static void delay_queues_are_no_deaths(void **state)
{
	struct mqfs_message *message = unit_message("");
	struct mqfs_value deaths[] = {death("mqfs.delay.jobs.1", "expired", 2, 1700000300)};
	struct mqfs_history history;

	(void)state;
	add_deaths(message, 1, deaths);
	mqfs_history_read(message, &history);
	assert_int_equal(history.attempts, 0);
	assert_int_equal(history.dead_at_us, 0);
	assert_null(history.dead_reason);
	mqfs_message_free(message);
}

static void own_history_comes_first(void **state)
{
	struct mqfs_message *message = make_loaded();
	struct mqfs_history history;

	(void)state;
	mqfs_headers_set_integer(&message->headers, "mqfs-attempts", 1);
	mqfs_headers_set_integer(&message->headers, "mqfs-published", NOW);
	mqfs_headers_set_string(&message->headers, "mqfs-dead-reason", "given up");
	mqfs_history_read(message, &history);
	assert_int_equal(history.attempts, 1);
	assert_int_equal(history.published_us, NOW);
	assert_string_equal(history.dead_reason, "given up");
	mqfs_message_free(message);
}

static void survives_hostile_histories(void **state)
{
	struct mqfs_message *message = unit_message(""), *copy;
	struct mqfs_value deaths[] = {death("jobs", "rejected", INT64_MAX, INT64_MAX),
	                              death("jobs", "rejected", INT64_MAX, -1),
	                              death("jobs", "rejected", INT64_MIN, 0),
	                              unit_text("no table"),
	                              {.kind = 'F'}};
	struct mqfs_history history;

	(void)state;
	message->timestamp = UINT64_MAX;
	add_deaths(message, 5, deaths);
	mqfs_history_read(message, &history);
	assert_in_range(history.attempts, 1, INT32_MAX);
	assert_int_equal(history.first_failed_us, 0);
	assert_int_equal(history.published_us, 0);

	mqfs_headers_set_integer(&message->headers, "mqfs-attempts", INT64_MAX);
	mqfs_headers_set_integer(&message->headers, "mqfs-max-attempts", -7);
	mqfs_headers_set_integer(&message->headers, "mqfs-last-failed", INT64_MIN);
	mqfs_headers_set_integer(&message->headers, "mqfs-error", 1);
	mqfs_history_read(message, &history);
	assert_in_range(history.attempts, 1, INT32_MAX);
	assert_int_equal(history.max_attempts, 0);
	assert_int_equal(history.last_failed_us, 0);
	assert_null(history.error);
	message->timestamp = (UINT64_C(1) << 58) + 1; /* times 10^6 it would wrap around to one second */
	mqfs_history_read(message, &history);
	assert_int_equal(history.published_us, 0);
	copy = mqfs_copy_for_grant(message, NOW);
	assert_int_equal(integer_of(copy, "mqfs-max-attempts"), history.attempts + 1);
	mqfs_message_free(copy);
	mqfs_message_free(message);

	message = unit_message("");
	unit_add(&message->headers, "x-death", unit_text("no list"));
	mqfs_history_read(message, &history);
	assert_int_equal(history.attempts, 0);
	copy = mqfs_copy_for_dead(message, &attempt);
	assert_non_null(copy);
	mqfs_message_free(copy);
	mqfs_message_free(message);
}

static void stamps(void **state)
{
	struct mqfs_message *message = unit_message("body");
	char *copy_id;

	(void)state;
	message->delivery_mode = 1;
	assert_int_equal(mqfs_message_stamp(message, "a.json", NOW), 0);
	assert_int_equal(strlen(message->message_id), 36);
	assert_string_not_equal(message->message_id, text_of(message, "mqfs-copy"));
	assert_string_equal(text_of(message, "mqfs-filename"), "a.json");
	assert_int_equal(integer_of(message, "mqfs-published"), NOW);
	assert_int_equal(message->timestamp, NOW / 1000000);
	assert_int_equal(message->delivery_mode, 2);
	assert_string_equal(message->content_type, "application/json");

	copy_id = strdup(text_of(message, "mqfs-copy"));
	mqfs_message_set_string(&message->message_id, "mine");
	mqfs_message_set_string(&message->content_type, "text/plain");
	assert_int_equal(mqfs_message_stamp(message, "b.json", LATER), 0);
	assert_string_equal(message->message_id, "mine");
	assert_string_equal(message->content_type, "text/plain");
	assert_string_not_equal(text_of(message, "mqfs-copy"), copy_id);
	free(copy_id);
	mqfs_message_free(message);
}

static void stamps_without_a_name(void **state)
{
	struct mqfs_message *message = unit_message("line");

	(void)state;
	assert_int_equal(mqfs_message_stamp(message, NULL, NOW), 0);
	assert_null(text_of(message, "mqfs-filename"));
	assert_null(message->content_type);
	assert_non_null(message->message_id);
	mqfs_message_free(message);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(copy_for_retry),
	    cmocka_unit_test(copy_for_dead),
	    cmocka_unit_test(copy_for_dead_again),
	    cmocka_unit_test(copy_for_release),
	    cmocka_unit_test(copy_for_release_counts_nothing),
	    cmocka_unit_test(copy_for_grant),
	    cmocka_unit_test(copy_for_grant_of_a_foreign_one),
	    cmocka_unit_test(copy_afresh),
	    cmocka_unit_test(copy_afresh_at_a_priority),
	    cmocka_unit_test(copy_afresh_drops_what_brokers_refuse),
	    cmocka_unit_test(expirations_at_the_bounds_come_back),
	    cmocka_unit_test(drops_twins_too),
	    cmocka_unit_test(drops_triplets_and_nothing_else),
	    cmocka_unit_test(history_of_several_failures),
	    cmocka_unit_test(burial_without_an_attempt_keeps_the_reason),
	    cmocka_unit_test(errors_are_bounded_text),
	    cmocka_unit_test(reads_foreign_dead_letters),
	    cmocka_unit_test(delay_queues_are_no_deaths),
	    cmocka_unit_test(own_history_comes_first),
	    cmocka_unit_test(survives_hostile_histories),
	    cmocka_unit_test(stamps),
	    cmocka_unit_test(stamps_without_a_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
