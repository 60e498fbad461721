#include "cli/chat_session.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

using Action = ChatSession::Action;

TEST(ChatSession, DraftsAreShownAndHiddenByCommand) {
  ChatSession session({}, false, true);
  EXPECT_TRUE(session.shows_drafts());
  EXPECT_EQ(session.OnInput("/drafts").text, "drafts are not shown any more");
  EXPECT_FALSE(session.shows_drafts());
  session.OnInput("/drafts");
  EXPECT_TRUE(session.shows_drafts());
  EXPECT_EQ(session.ToJson(), "{}\n");  // it is no part of the conversation
}

TEST(InputAssembler, JoinsLinesThatGoOnAndBlocks) {
  InputAssembler assembler;
  EXPECT_TRUE(assembler.Add("one"));
  EXPECT_EQ(assembler.input(), "one");
  EXPECT_FALSE(assembler.Add("a\\"));
  EXPECT_TRUE(assembler.IsOpen());
  EXPECT_TRUE(assembler.Add("b"));
  EXPECT_EQ(assembler.input(), "a\nb");
  EXPECT_FALSE(assembler.Add("\"\"\""));
  EXPECT_FALSE(assembler.Add("def f():"));
  EXPECT_FALSE(assembler.Add("  return 1\\"));
  EXPECT_TRUE(assembler.Add("\"\"\""));
  EXPECT_EQ(assembler.input(), "def f():\n  return 1\\");
  EXPECT_TRUE(assembler.Add("\"\"\"all in one\"\"\""));
  EXPECT_EQ(assembler.input(), "all in one");
  EXPECT_FALSE(assembler.IsOpen());
}

TEST(InputAssembler, DropForgetsWhatWasBegun) {
  InputAssembler assembler;
  EXPECT_FALSE(assembler.Add("\"\"\"a"));
  assembler.Drop();
  EXPECT_FALSE(assembler.IsOpen());
  EXPECT_TRUE(assembler.Add("b"));
  EXPECT_EQ(assembler.input(), "b");
}

TEST(ChatSession, AMessageAndItsAnswerAreTheNextRequestsBeginning) {
  ChatSession session({});
  EXPECT_EQ(session.OnInput("hello").action, Action::kGenerate);
  session.OnAnswer("hi");
  EXPECT_EQ(session.OnInput("//slash").action, Action::kGenerate);
  ASSERT_EQ(session.Request().messages_size(), 3);
  EXPECT_EQ(session.Request().messages(1).role(), "assistant");
  EXPECT_EQ(session.Request().messages(2).content(), "/slash");
  session.OnFailure();
  EXPECT_EQ(session.Request().messages_size(), 2);
  EXPECT_EQ(session.OnInput("  ").action, Action::kNothing);
}

TEST(ChatSession, UndoAndRetryGoBack) {
  ChatSession session({});
  EXPECT_EQ(session.OnInput("/undo").text, "there is nothing to take back");
  EXPECT_EQ(session.OnInput("/retry").action, Action::kNothing);
  session.OnInput("a");
  session.OnAnswer("1");
  EXPECT_EQ(session.OnInput("/retry").action, Action::kGenerate);
  ASSERT_EQ(session.Request().messages_size(), 1);
  session.OnAnswer("2");
  EXPECT_EQ(session.OnInput("/undo").text, "taken back");
  EXPECT_EQ(session.Request().messages_size(), 0);
}

TEST(ChatSession, SystemMessageIsFirstAndNewGoesBackToTheStart) {
  v1::GenerateRequest defaults;
  defaults.set_temperature(0.5);
  ChatSession session(defaults);
  session.OnInput("a");
  session.OnAnswer("b");
  session.OnInput("/system be brief");
  session.OnInput("/system be very brief");
  ASSERT_EQ(session.Request().messages_size(), 3);
  EXPECT_EQ(session.Request().messages(0).content(), "be very brief");
  EXPECT_EQ(session.Request().messages(1).content(), "a");
  session.OnInput("/system");
  EXPECT_EQ(session.Request().messages_size(), 2);
  session.OnInput("/set temperature 0");
  EXPECT_EQ(session.Request().temperature(), 0);
  session.OnInput("/new");
  EXPECT_EQ(session.Request().messages_size(), 0);
  EXPECT_EQ(session.Request().temperature(), 0.5);
}

TEST(ChatSession, SetTakesEveryTypeAndNamesTheNearestOfWhatIsNone) {
  ChatSession session({});
  EXPECT_EQ(session.OnInput("/set max_tokens 7").text, "max_tokens = 7");
  EXPECT_EQ(session.OnInput("/set draft false").text, "draft = false");
  EXPECT_EQ(session.OnInput("/set acceptance ACCEPTANCE_REJECTION").text, "acceptance = ACCEPTANCE_REJECTION");
  EXPECT_EQ(session.Request().max_tokens(), 7);
  EXPECT_FALSE(session.Request().draft());
  EXPECT_EQ(session.OnInput("/set max_tokens default").text, "max_tokens is the model's");
  EXPECT_FALSE(session.Request().has_max_tokens());
  EXPECT_EQ(session.OnInput("/set temprature 1").text, "no parameter 'temprature'; did you mean 'temperature'?");
  EXPECT_EQ(session.OnInput("/set max_tokens many").text, "'many' is no value of max_tokens");
  EXPECT_EQ(session.OnInput("/set seed 1, \"n\": 5").text, "'1, \"n\": 5' is no value of seed");
  EXPECT_FALSE(session.Request().has_n());
  EXPECT_EQ(session.OnInput("/set prompt x").text.find("no parameter 'prompt'"), 0u);
  EXPECT_EQ(session.OnInput("/set").text, "/set takes a name and a value: /set temperature 0.7");
}

TEST(ChatSession, UnknownCommandsNameTheNearest) {
  ChatSession session({});
  EXPECT_EQ(session.OnInput("/hlep").text.find("unknown command '/hlep'; did you mean '/help'?"), 0u);
  EXPECT_EQ(session.OnInput("/save").text, "/save takes a file");
  EXPECT_EQ(session.OnInput("/exit").action, Action::kExit);
  EXPECT_EQ(session.OnInput("\xff").text.find("that is not UTF-8"), 0u);
}

TEST(ChatSession, AConversationIsSavedAndReadAgain) {
  ChatSession session({});
  session.OnInput("/set max_tokens 7");
  session.OnInput("a \"quoted\"\nmessage");
  session.OnAnswer("b");
  ChatSession again({});
  ASSERT_TRUE(again.FromJson(session.ToJson()).ok());
  EXPECT_EQ(again.Request().SerializeAsString(), session.Request().SerializeAsString());
  EXPECT_FALSE(again.FromJson("{}").ok());
  EXPECT_FALSE(again.FromJson("nonsense").ok());
  EXPECT_EQ(again.Request().messages_size(), 2);
}

TEST(TerminalSafe, LeavesTextAndTakesWhatATerminalWouldObey) {
  EXPECT_EQ(TerminalSafe("a\tb\n\xc3\xa9 \xe2\x82\xac"), "a\tb\n\xc3\xa9 \xe2\x82\xac");
  EXPECT_EQ(TerminalSafe("\x1b[2J"), "\xef\xbf\xbd[2J");
  EXPECT_EQ(TerminalSafe("\xc2\x9b"
                         "2J\x7f"),
            "\xef\xbf\xbd"
            "2J\xef\xbf\xbd");
  EXPECT_EQ(TerminalSafe("\xc2\xa0"), "\xc2\xa0");
  EXPECT_EQ(TerminalSafe("\xc2"), "\xc2");
}

}  // namespace
}  // namespace outrider
