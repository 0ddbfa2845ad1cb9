/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include <signal.h>

#define SKIP_WITHOUT_BROKER()                                                                                          \
	do {                                                                                                           \
		(void)state;                                                                                           \
		if (!backend)                                                                                          \
			skip();                                                                                        \
	} while (0)

/* ---- one message among its neighbours ---- */

static void a_return_concerns_one(void **state)
{
	struct call calls[30];
	const char *queue;

	SKIP_WITHOUT_BROKER();
	queue = make_queue("return");
	for (int i = 0; i < 30; i++)
		begin_publish(&calls[i], i % 3 == 1 ? "fault-nowhere" : queue, message_of(100), ENOUGH_MS);
	for (int i = 0; i < 30; i++)
		assert_int_equal(finish(&calls[i]), i % 3 == 1 ? -ENOENT : 0);
	assert_int_equal(ready_in(queue), 20);
}

static void twins_without_ids_return(void **state)
{
	struct call calls[10];
	const char *queue;

	SKIP_WITHOUT_BROKER();
	queue = make_queue("twins");
	for (int i = 0; i < 10; i++)
		begin_publish(&calls[i], i % 2 ? "fault-nowhere" : queue, mqfs_message_new(), ENOUGH_MS);
	for (int i = 0; i < 10; i++)
		assert_int_equal(finish(&calls[i]), i % 2 ? -ENOENT : 0);
}

static void a_nack_concerns_one(void **state)
{
	char full[128], open[128];
	struct call calls[40];
	int refused = 0;

	SKIP_WITHOUT_BROKER();
	snprintf(open, sizeof(open), "%s", make_queue("open"));
	settings.max_length = 5;
	settings.overflow = MQFS_OVERFLOW_REJECT_PUBLISH;
	snprintf(full, sizeof(full), "%s", make_queue("full"));
	for (int i = 0; i < 5; i++)
		assert_int_equal(publish_to(backend, full, message_of(10), ENOUGH_MS), 0);
	for (int i = 0; i < 40; i++)
		begin_publish(&calls[i], i % 2 ? full : open, message_of(10), ENOUGH_MS);
	for (int i = 0; i < 40; i++) {
		refused += finish(&calls[i]) == -ENOSPC;
		assert_int_equal(calls[i].result, i % 2 ? -ENOSPC : 0);
	}
	assert_int_equal(refused, 20);
	assert_int_equal(publish_to(backend, open, message_of(10), ENOUGH_MS), 0);
}

static void a_refused_one_fails_alone(void **state)
{
	struct call calls[30];
	const char *queue;

	SKIP_WITHOUT_BROKER();
	queue = make_queue("refused");
	for (int i = 0; i < 30; i++) {
		struct mqfs_message *message = message_of(100);

		if (i % 10 == 4)
			mqfs_message_set_string(&message->user_id, "somebody-else");
		begin_publish(&calls[i], queue, message, ENOUGH_MS);
	}
	for (int i = 0; i < 30; i++)
		assert_int_equal(finish(&calls[i]), i % 10 == 4 ? -EPERM : 0);
	assert_true(ready_in(queue) >= 27);
}

/* The owner and the watchdog race for them; whoever wins, nothing goes out. */
static void late_ones_are_not_sent(void **state)
{
	struct call calls[200];
	const char *queue;

	SKIP_WITHOUT_BROKER();
	queue = make_queue("late");
	for (int i = 0; i < 200; i++)
		begin_publish(&calls[i], queue, message_of(100), i % 4 == 0 ? ENOUGH_MS : 0);
	for (int i = 0; i < 200; i++)
		assert_int_equal(finish(&calls[i]), i % 4 == 0 ? 0 : -EHOSTDOWN);
	assert_int_equal(ready_in(queue), 50);
}

static void a_too_large_one_fails_alone(void **state)
{
	struct call calls[10];
	const char *queue;

	SKIP_WITHOUT_BROKER();
	queue = make_queue("large");
	ctl("eval 'persistent_term:put(max_message_size, 50000), persistent_term:put(rabbit_max_message_size, "
	    "50000).'");
	ctl("eval 'application:set_env(rabbit, max_message_size, 50000).'");
	mqfs_backend_close(backend);
	backend = open_url(getenv("MQFS_TEST_URL"));
	for (int i = 0; i < 10; i++)
		begin_publish(&calls[i], queue, message_of(i == 5 ? 60000 : 100), ENOUGH_MS);
	for (int i = 0; i < 10; i++)
		assert_int_equal(finish(&calls[i]), i == 5 ? -EFBIG : 0);
	/* Known by now: refused without the broker. */
	assert_int_equal(publish_to(backend, queue, message_of(60000), ENOUGH_MS), -EFBIG);
	ctl("eval 'application:set_env(rabbit, max_message_size, 134217728), persistent_term:put(max_message_size, "
	    "134217728).'");
}

/* ---- the broker's alarms and whims ---- */

static void blocked_publishes_end_in_time(void **state)
{
	struct mqfs_backend_status status;
	struct call calls[3];
	char queue[128];

	SKIP_WITHOUT_BROKER();
	snprintf(queue, sizeof(queue), "%s", make_queue("blocked"));
	/* That one went out, since blocked comes after it; the others are never sent. */
	assert_int_equal(raise_alarm(), -ETIMEDOUT);
	for (int i = 0; i < 3; i++) {
		begin_publish(&calls[i], queue, message_of(100), 1000);
		finish(&calls[i]);
		assert_true(calls[i].took_ms < 3000);
		assert_int_equal(calls[i].result, -EHOSTDOWN);
	}
	mqfs_backend_status(backend, &status);
	assert_true(status.connected);
	assert_non_null(strstr(status.reason, "blocked"));
	assert_int_equal(find_queue(queue, ENOUGH_MS), 0);
	end_alarm();
	assert_true(works_again(queue, ENOUGH_MS));
	mqfs_backend_status(backend, &status);
	assert_string_equal(status.reason, "");
}

static void a_deleted_queue_ends_the_consumer(void **state)
{
	static struct intake intake;
	const char *queue;

	SKIP_WITHOUT_BROKER();
	queue = make_queue("deleted");
	assert_int_equal(publish_to(backend, queue, message_of(10), ENOUGH_MS), 0);
	intake_start(&intake, queue, 4);
	assert_true(WAIT_UNTIL(intake.count == 1, ENOUGH_MS));
	ctl("delete_queue %s", queue);
	assert_true(WAIT_UNTIL(intake.ended == 1, ENOUGH_MS));
	assert_int_equal(intake.ended_result, -ENOENT);
	assert_int_equal(settle(intake.held[0], MQFS_VERB_ACK), -ESTALE);
	intake_stop(&intake);
}

static void a_missing_queue_ends_the_consumer(void **state)
{
	static struct intake intake;

	SKIP_WITHOUT_BROKER();
	intake_start(&intake, "fault-nowhere", 4);
	assert_true(WAIT_UNTIL(intake.ended == 1, ENOUGH_MS));
	assert_int_equal(intake.ended_result, -ENOENT);
	intake_stop(&intake);
}

static void consumer_timeout_delivers_again(void **state)
{
	static struct intake intake;
	const char *queue;

	SKIP_WITHOUT_BROKER();
	ctl("eval 'application:set_env(rabbit, consumer_timeout, 1000), application:set_env(rabbit, "
	    "channel_tick_interval, 500).'");
	queue = make_queue("timeout");
	assert_int_equal(publish_to(backend, queue, message_of(10), ENOUGH_MS), 0);
	intake_start(&intake, queue, 4);
	assert_true(WAIT_UNTIL(intake.count >= 1, ENOUGH_MS));
	assert_true(WAIT_UNTIL(intake.lost >= 1 && intake.count >= 2, ENOUGH_MS));
	assert_true(intake.held[0]->generation <= intake.lost_generation);
	assert_true(intake.held[1]->redelivered);
	assert_int_equal(settle(intake.held[0], MQFS_VERB_ACK), -ESTALE);
	faults_lock();
	struct mqfs_delivery *last = intake.held[intake.count - 1];
	faults_unlock();
	assert_int_equal(settle(last, MQFS_VERB_ACK), 0);
	ctl("eval 'application:set_env(rabbit, consumer_timeout, 1800000), application:set_env(rabbit, "
	    "channel_tick_interval, 60000).'");
	intake_stop(&intake);
}

static void closed_connections_come_back(void **state)
{
	static struct intake intake;
	struct call calls[50];
	char queue[128];

	SKIP_WITHOUT_BROKER();
	snprintf(queue, sizeof(queue), "%s", make_queue("closed"));
	assert_int_equal(publish_to(backend, queue, message_of(10), ENOUGH_MS), 0);
	intake_start(&intake, queue, 1);
	assert_true(WAIT_UNTIL(intake.count == 1, ENOUGH_MS));
	ctl("close_all_connections fault");
	assert_true(WAIT_UNTIL(intake.lost >= 1, ENOUGH_MS));
	assert_int_equal(settle(intake.held[0], MQFS_VERB_ACK), -ESTALE);
	assert_true(WAIT_UNTIL(intake.count == 2, ENOUGH_MS));
	assert_true(intake.held[1]->redelivered);
	assert_true(intake.held[1]->generation > intake.held[0]->generation);
	assert_true(intake.prepared >= 2);
	assert_int_equal(settle(intake.held[1], MQFS_VERB_ACK), 0);
	assert_true(works_again(queue, ENOUGH_MS));
	for (int i = 0; i < 50; i++)
		begin_publish(&calls[i], queue, message_of(10), ENOUGH_MS);
	for (int i = 0; i < 50; i++)
		assert_int_equal(finish(&calls[i]), 0);
	intake_stop(&intake);
}

/* What it holds outlives a cancel; who consumes again is told what was lost meanwhile, before it comes again. */
static void a_connection_lost_between_two_consumers_is_told(void **state)
{
	static struct intake intake, witness;
	struct call cancelled;
	char queue[128];

	SKIP_WITHOUT_BROKER();
	intake_start(&witness, make_queue("witness"), 1);
	snprintf(queue, sizeof(queue), "%s", make_queue("between"));
	assert_int_equal(publish_to(backend, queue, message_of(10), ENOUGH_MS), 0);
	intake_start(&intake, queue, 1);
	assert_true(WAIT_UNTIL(intake.count == 1 && witness.prepared > 0, ENOUGH_MS));
	begin(&cancelled);
	mqfs_cancel(backend, queue, call_done, &cancelled);
	assert_int_equal(finish(&cancelled), 0);
	ctl("close_all_connections fault");
	assert_true(WAIT_UNTIL(witness.lost >= 1, ENOUGH_MS));
	intake_change(&intake, 1);
	assert_true(WAIT_UNTIL(intake.count == 2, ENOUGH_MS));
	assert_int_equal(intake.lost, 1);
	assert_true(intake.lost_generation >= intake.held[0]->generation);
	assert_true(intake.lost_generation < intake.held[1]->generation);
	assert_int_equal(settle(intake.held[1], MQFS_VERB_ACK), 0);
	intake_stop(&intake);
	intake_stop(&witness);
}

/* A user of these permissions: configure, write, read. */
static void permit(const char *permissions)
{
	ctl("eval 'rabbit_auth_backend_internal:exists(<<\"limited\">>) orelse "
	    "rabbit_auth_backend_internal:add_user(<<\"limited\">>, <<\"secret-word\">>, <<\"test\">>).'");
	ctl("set_permissions limited %s", permissions);
}

static void no_permission_is_eacces(void **state)
{
	struct mqfs_backend *limited;
	struct call call;

	SKIP_WITHOUT_BROKER();
	permit("'^$' '^$' '.*'");
	limited = open_url(url_with("limited:secret-word", "", 0));
	assert_int_equal(publish_to(limited, "fault-any", message_of(10), ENOUGH_MS), -EACCES);
	begin(&call);
	mqfs_queue_declare(limited, "fault-refused", &settings, in_ms(ENOUGH_MS), call_done, &call);
	assert_int_equal(finish(&call), -EACCES);
	mqfs_backend_close(limited);
}

/* R1: no place for failures, but messages all the same. */
static void places_that_are_refused_are_told(void **state)
{
	static struct intake intake;
	struct mqfs_backend *own;
	char queue[128];

	SKIP_WITHOUT_BROKER();
	snprintf(queue, sizeof(queue), "%s", make_queue("places"));
	assert_int_equal(publish_to(backend, queue, message_of(10), ENOUGH_MS), 0);
	permit("'^$' '.*' '.*'");
	own = backend;
	backend = open_url(url_with("limited:secret-word", "", 0));
	intake_start(&intake, queue, 4);
	assert_true(WAIT_UNTIL(intake.count == 1, ENOUGH_MS));
	assert_int_equal(intake.prepared, 1);
	assert_int_equal(intake.prepared_result, -EACCES);
	assert_int_equal(settle(intake.held[0], MQFS_VERB_RELEASE), 0);
	intake_stop(&intake);
	permit("'^$' '.*' '^$'");
	/* The broker remembers permissions as long as a channel is open. */
	mqfs_backend_close(backend);
	backend = open_url(url_with("limited:secret-word", "", 0));
	intake_start(&intake, queue, 4);
	assert_true(WAIT_UNTIL(intake.ended == 1, ENOUGH_MS));
	assert_int_equal(intake.ended_result, -EACCES);
	intake_stop(&intake);
	mqfs_backend_close(backend);
	backend = own;
}

/* ---- silence ---- */

static void a_stopped_broker_hangs_nothing(void **state)
{
	struct call small, large[40], found, late;
	struct mqfs_backend_status status;
	char queue[128];

	SKIP_WITHOUT_BROKER();
	if (!broker_pid())
		skip();
	snprintf(queue, sizeof(queue), "%s", make_queue("stopped"));
	assert_int_equal(kill(broker_pid(), SIGSTOP), 0);
	begin_publish(&small, queue, message_of(10), 1000);
	begin(&found);
	mqfs_queue_find(backend, queue, in_ms(200), call_done, &found);
	finish(&found);
	/* Enough to fill the socket, so that a send gets stuck. */
	for (int i = 0; i < 40; i++)
		begin_publish(&large[i], queue, message_of(1 << 20), 1500);
	finish(&small);
	for (int i = 0; i < 40; i++)
		finish(&large[i]);
	begin_publish(&late, queue, message_of(10), 1000);
	finish(&late);
	mqfs_backend_status(backend, &status);
	kill(broker_pid(), SIGCONT);
	assert_int_equal(found.result, -ETIMEDOUT);
	assert_true(found.took_ms < 2000);
	assert_int_equal(small.result, -ETIMEDOUT);
	assert_true(small.took_ms < 3000);
	for (int i = 0; i < 40; i++) {
		assert_true(large[i].result == -ETIMEDOUT || large[i].result == -EHOSTDOWN);
		assert_true(large[i].took_ms < 4000);
	}
	assert_true(late.result == -ETIMEDOUT || late.result == -EHOSTDOWN);
	assert_true(works_again(queue, 10000));
	assert_int_equal(find_queue(queue, ENOUGH_MS), 0);
}

static bool is_away(int64_t within_ms)
{
	struct mqfs_backend_status status;
	int64_t deadline_ms = in_ms(within_ms);

	do {
		mqfs_backend_status(backend, &status);
		if (!status.connected)
			return true;
		sleep_ms(10);
	} while (in_ms(0) < deadline_ms);
	return false;
}

/* Before the window is full of what is late and still owed, for all queues. */
static void what_never_confirms_is_left(void **state)
{
	static struct call calls[600];
	char queue[128];

	SKIP_WITHOUT_BROKER();
	if (!broker_pid())
		skip();
	snprintf(queue, sizeof(queue), "%s", make_queue("owed"));
	settings.heartbeat_ms = 60000; /* which must not be what ends it */
	mqfs_backend_close(backend);
	backend = open_url(getenv("MQFS_TEST_URL"));
	kill(broker_pid(), SIGSTOP);
	for (int i = 0; i < 600; i++)
		begin_publish(&calls[i], queue, message_of(10), 1500);
	for (int i = 0; i < 600; i++)
		assert_int_equal(finish(&calls[i]), -ETIMEDOUT);
	assert_true(is_away(3000));
	kill(broker_pid(), SIGCONT);
	assert_true(works_again(queue, ENOUGH_MS));
}

static void heartbeats_find_silence(void **state)
{
	static struct intake intake;
	struct mqfs_backend_status status;
	char queue[128];

	SKIP_WITHOUT_BROKER();
	if (!broker_pid())
		skip();
	snprintf(queue, sizeof(queue), "%s", make_queue("silent"));
	assert_int_equal(publish_to(backend, queue, message_of(10), ENOUGH_MS), 0);
	intake_start(&intake, queue, 4);
	assert_true(WAIT_UNTIL(intake.count == 1, ENOUGH_MS));
	assert_int_equal(kill(broker_pid(), SIGSTOP), 0);
	sleep_ms(3 * settings.heartbeat_ms);
	mqfs_backend_status(backend, &status);
	kill(broker_pid(), SIGCONT);
	assert_false(status.connected);
	assert_true(WAIT_UNTIL(intake.lost >= 1 && intake.count >= 2, ENOUGH_MS));
	assert_true(works_again(queue, 10000));
	intake_stop(&intake);
}

static void closing_beside_a_stopped_broker(void **state)
{
	int64_t began_ms;
	char queue[128];
	struct call call;

	SKIP_WITHOUT_BROKER();
	if (!broker_pid())
		skip();
	snprintf(queue, sizeof(queue), "%s", make_queue("closing"));
	kill(broker_pid(), SIGSTOP);
	begin_publish(&call, queue, message_of(10), 60000);
	sleep_ms(100);
	began_ms = in_ms(0);
	mqfs_backend_close(backend);
	backend = NULL;
	began_ms = in_ms(0) - began_ms;
	kill(broker_pid(), SIGCONT);
	assert_true(began_ms < 6000);
	assert_true(call.done);
	assert_int_equal(call.result, -ESHUTDOWN);
}

/* ---- opening ---- */

static void assert_refused(const char *url, int result, const char *said)
{
	struct mqfs_backend *opened;
	char *error = NULL;
	int64_t began_ms = in_ms(0);
	int r = mqfs_backend_open(url, &settings, &opened, &error);

	print_message("    %s\n", error ? error : "");
	assert_int_equal(r, result);
	assert_non_null(error);
	assert_non_null(strstr(error, said));
	assert_null(strstr(error, "secret-word"));
	assert_true(in_ms(0) - began_ms < 15000);
	free(error);
}

static void opening_says_what_is_wrong(void **state)
{
	SKIP_WITHOUT_BROKER();
	assert_refused(url_with("guest:secret-word", "", 0), -EACCES, "password");
	assert_refused(url_with("guest:guest", "nowhere", 0), -ENOENT, "nowhere");
	settings.connect_timeout_ms = 1000;
	assert_refused(url_with("guest:guest", "", 1), -EHOSTDOWN, "nobody listens");
	assert_refused("amqp://guest:secret-word@host.invalid/", -EHOSTDOWN, "resolved");
}

static void the_second_host_serves(void **state)
{
	struct mqfs_backend *opened;
	char url[320], own[256];

	SKIP_WITHOUT_BROKER();
	snprintf(own, sizeof(own), "%s", strchr(getenv("MQFS_TEST_URL"), '@') + 1);
	snprintf(url, sizeof(url), "amqp://guest:guest@127.0.0.1:1,%s", own);
	opened = open_url(url);
	mqfs_backend_close(opened);
}

/* ---- quorum queues ---- */

static void giving_back_costs_no_message(void **state)
{
	static struct intake intake;
	struct mqfs_delivery *delivery;
	char queue[128];

	SKIP_WITHOUT_BROKER();
	settings.type = MQFS_QUEUE_QUORUM;
	snprintf(queue, sizeof(queue), "%s", make_queue("limit"));
	ctl("set_policy --apply-to queues fault-limit '^fault-limit' '{\"delivery-limit\": 2}'");
	/* Another mount, which does not know that it is a quorum queue. */
	mqfs_backend_close(backend);
	backend = open_url(getenv("MQFS_TEST_URL"));
	assert_int_equal(publish_to(backend, queue, message_of(10), ENOUGH_MS), 0);
	intake_start(&intake, queue, 1);
	for (size_t i = 0; i < 8; i++) {
		assert_true(WAIT_UNTIL(intake.count == i + 1, ENOUGH_MS));
		delivery = intake.held[i];
		assert_int_equal(settle(delivery, MQFS_VERB_RELEASE), 0);
	}
	assert_true(WAIT_UNTIL(intake.count == 9, ENOUGH_MS));
	assert_int_equal(settle(intake.held[8], MQFS_VERB_ACK), 0);
	intake_stop(&intake);
	ctl("clear_policy fault-limit");
}

static void browse_done(void *arg, int result, struct mqfs_delivery **deliveries, size_t count)
{
	struct call *call = arg;

	faults_lock();
	call->count = count;
	for (size_t i = 0; i < count; i++)
		call->found[i] = deliveries[i];
	faults_unlock();
	call_done(arg, result, NULL);
}

/* Looks until it is there. */
static void look_at_dead(struct call *call, const char *queue)
{
	int64_t deadline_ms = in_ms(ENOUGH_MS);

	do {
		begin(call);
		mqfs_browse(backend, queue, MQFS_PLACE_DEAD, 10, in_ms(ENOUGH_MS), browse_done, call);
		assert_int_equal(finish(call), 0);
		assert_true(in_ms(0) < deadline_ms);
	} while (call->count == 0);
}

/* R5: a Q.dead that somebody made as a quorum queue, with a delivery limit. */
static void looking_costs_no_message(void **state)
{
	char queue[128], dead[160], copy[64] = "";
	static struct call call;

	SKIP_WITHOUT_BROKER();
	snprintf(queue, sizeof(queue), "%s", make_queue("limit"));
	snprintf(dead, sizeof(dead), "%s.dead", queue);
	settings.type = MQFS_QUEUE_QUORUM;
	begin(&call);
	mqfs_queue_declare(backend, dead, &settings, in_ms(ENOUGH_MS), call_done, &call);
	assert_int_equal(finish(&call), 0);
	ctl("set_policy --apply-to queues fault-limit '^fault-limit' '{\"delivery-limit\": 2}'");
	assert_int_equal(publish_to(backend, dead, message_of(10), ENOUGH_MS), 0);
	for (int i = 0; i < 6; i++) {
		struct mqfs_delivery *delivery;
		const char *now;

		look_at_dead(&call, queue);
		assert_int_equal(call.count, 1);
		delivery = call.found[0];
		now = mqfs_headers_string(&delivery->message->headers, "mqfs-copy");
		assert_non_null(now);
		assert_true(i == 0 || strcmp(copy, now) == 0);
		snprintf(copy, sizeof(copy), "%s", now);
		assert_int_equal(settle(delivery, MQFS_VERB_RELEASE), 0);
		mqfs_delivery_unref(delivery);
	}
	look_at_dead(&call, queue);
	mqfs_delivery_unref(call.found[0]);
	ctl("clear_policy fault-limit");
}

static int delete_queue(const char *queue, bool unsafe)
{
	struct call call;

	begin(&call);
	mqfs_queue_delete(backend, queue, unsafe, in_ms(ENOUGH_MS), call_done, &call);
	return finish(&call);
}

static void a_quorum_queue_is_deleted_unsafely_only(void **state)
{
	char queue[128];

	SKIP_WITHOUT_BROKER();
	settings.type = MQFS_QUEUE_QUORUM;
	snprintf(queue, sizeof(queue), "%s", make_queue("quorum"));
	assert_int_equal(delete_queue(queue, false), -EOPNOTSUPP);
	mqfs_backend_close(backend);
	backend = open_url(getenv("MQFS_TEST_URL"));
	/* Found out by the broker's 540, which costs the connection. */
	assert_int_equal(delete_queue(queue, false), -EOPNOTSUPP);
	assert_true(works_again(queue, ENOUGH_MS));
	mqfs_backend_close(backend);
	backend = open_url(getenv("MQFS_TEST_URL"));
	assert_int_equal(delete_queue(queue, true), -ENOTEMPTY);
	ctl("purge_queue %s", queue);
	assert_int_equal(delete_queue(queue, true), 0);
	assert_int_equal(find_queue(queue, ENOUGH_MS), -ENOENT);
}

static void assert_window(struct intake *intake, size_t prefetch)
{
	sleep_ms(300);
	faults_lock();
	size_t count = intake->count;
	faults_unlock();
	assert_int_equal(count, prefetch);
}

static void settle_all(struct intake *intake)
{
	size_t count;

	faults_lock();
	count = intake->count;
	faults_unlock();
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(settle(intake->held[i], MQFS_VERB_ACK), 0);
		mqfs_delivery_unref(intake->held[i]);
	}
	faults_lock();
	memmove(intake->held, intake->held + count, (intake->count - count) * sizeof(intake->held[0]));
	intake->count -= count;
	faults_unlock();
}

static void prefetch_changes(const char *queue)
{
	static struct intake intake;

	for (int i = 0; i < 100; i++)
		assert_int_equal(publish_to(backend, queue, message_of(10), ENOUGH_MS), 0);
	intake_start(&intake, queue, 4);
	assert_true(WAIT_UNTIL(intake.count == 4, ENOUGH_MS));
	intake_change(&intake, 10);
	assert_true(WAIT_UNTIL(intake.count == 10, ENOUGH_MS));
	assert_window(&intake, 10);
	settle_all(&intake);
	assert_window(&intake, 10);
	intake_change(&intake, 3);
	assert_window(&intake, 10);
	settle_all(&intake);
	assert_window(&intake, 3);
	intake_change(&intake, 20);
	assert_window(&intake, 20);
	settle_all(&intake);
	assert_window(&intake, 20);
	intake_stop(&intake);
}

static void prefetch_changes_on_classic(void **state)
{
	SKIP_WITHOUT_BROKER();
	prefetch_changes(make_queue("prefetch"));
}

static void prefetch_changes_on_quorum(void **state)
{
	SKIP_WITHOUT_BROKER();
	settings.type = MQFS_QUEUE_QUORUM;
	prefetch_changes(make_queue("prefetch"));
}

/* amqp_faults [PATTERN]: the tests whose name matches, or all. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    fault_test(a_return_concerns_one),
	    fault_test(twins_without_ids_return),
	    fault_test(a_nack_concerns_one),
	    fault_test(a_refused_one_fails_alone),
	    fault_test(late_ones_are_not_sent),
	    fault_test(a_too_large_one_fails_alone),
	    fault_test(blocked_publishes_end_in_time),
	    fault_test(a_deleted_queue_ends_the_consumer),
	    fault_test(a_missing_queue_ends_the_consumer),
	    fault_test(consumer_timeout_delivers_again),
	    fault_test(closed_connections_come_back),
	    fault_test(a_connection_lost_between_two_consumers_is_told),
	    fault_test(no_permission_is_eacces),
	    fault_test(places_that_are_refused_are_told),
	    fault_test(a_stopped_broker_hangs_nothing),
	    fault_test(what_never_confirms_is_left),
	    fault_test(heartbeats_find_silence),
	    fault_test(closing_beside_a_stopped_broker),
	    fault_test(opening_says_what_is_wrong),
	    fault_test(the_second_host_serves),
	    fault_test(giving_back_costs_no_message),
	    fault_test(looking_costs_no_message),
	    fault_test(a_quorum_queue_is_deleted_unsafely_only),
	    fault_test(prefetch_changes_on_classic),
	    fault_test(prefetch_changes_on_quorum),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("amqp faults", tests, NULL, NULL);
}
