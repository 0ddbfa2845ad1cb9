/* SPDX-License-Identifier: MIT */
#include "answer.h"

#include <errno.h>
#include <stdlib.h>

void answers_init(struct answers *answers, struct connection *connection)
{
	*answers = (struct answers){.connection = connection};
	pthread_mutex_init(&answers->lock, NULL);
}

void answers_deinit(struct answers *answers)
{
	pthread_mutex_destroy(&answers->lock);
}

static struct answer *take_reserved(struct answers *answers)
{
	struct answer *answer = NULL;

	pthread_mutex_lock(&answers->lock);
	for (size_t i = 0; i < ANSWERS_RESERVED && !answer; i++) {
		if (answers->taken[i])
			continue;
		answers->taken[i] = true;
		answer = &answers->reserve[i];
	}
	pthread_mutex_unlock(&answers->lock);
	return answer;
}

static void put_back(struct answer *answer)
{
	struct answers *answers = answer->answers;

	if (!answer->reserved) {
		free(answer);
		return;
	}
	pthread_mutex_lock(&answers->lock);
	answers->taken[answer - answers->reserve] = false;
	pthread_mutex_unlock(&answers->lock);
}

static void tell(const struct answer *answer)
{
	if (answer->depths)
		answer->depths(answer->arg, answer->result, NULL);
	else if (answer->list)
		answer->list(answer->arg, answer->result, NULL, 0);
	else if (answer->browse)
		answer->browse(answer->arg, answer->result, NULL, 0);
	else
		answer->done(answer->arg, answer->result, answer->reason);
}

static void answer_run(struct job *job, void *role)
{
	struct answer *answer = (struct answer *)job;

	(void)role;
	tell(answer);
	put_back(answer);
}

static void answer_fail(struct job *job, int result, const char *reason)
{
	struct answer *answer = (struct answer *)job;

	(void)reason;
	if (result == -ESHUTDOWN)
		answer->result = -ESHUTDOWN;
	answer_run(job, NULL);
}

void answer_later(struct answers *answers, const struct answer *template)
{
	struct answer *answer = malloc(sizeof(*answer));
	bool reserved = !answer;

	if (reserved)
		answer = take_reserved(answers);
	if (!answer) {
		/* Dozens are on their way already, and there is no memory for one more: better inside the call than
		 * never. */
		tell(template);
		return;
	}
	*answer = *template;
	answer->answers = answers;
	answer->reserved = reserved;
	/* Due at once, so that the watchdog gives it should the owner be busy. */
	answer->job = (struct job){.run = answer_run, .fail = answer_fail, .anytime = true, .late_result = -ETIMEDOUT};
	connection_submit(answers->connection, &answer->job);
}
