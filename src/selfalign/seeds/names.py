"""Names of columns: those that the reader knows, and those that mean the same in other tools and languages."""

from __future__ import annotations

from functools import lru_cache

from selfalign.text import plain_name

FORMS = {"prompt": "response", "question": "answer", "instruction": "output", "query": "response"}
"""Names of a prompt with the response that mostly goes with it; any response may go with any prompt."""
CHOSEN, REJECTED = "chosen", "rejected"
"""The answers of a preference: the first one is the response, the other is kept as metadata, for recipes that reject it."""
RESPONSES = ("response", "answer", "output", "completion", CHOSEN)
CHATS = ("messages", "conversations", "conversation", "contents")
PASSAGES = ("input", "context", "passage")
"""Texts that a prompt is about; they follow it behind a blank line, as in Alpaca's own prompts."""
OTHER_PASSAGES = (
    *("contexts", "passages", "document", "documents", "article", "paragraph", "background", "excerpt", "source_text"),
    *("reference_text", "retrieved_context", "retrieved_contexts", "retrieved_documents"),
)
"""The same where they hold sentences: a name without a space is that of a file."""
SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "system_instructions", "system_text", "sys")
HISTORIES = (
    *("history", "chat_history", "conversation_history", "previous_messages", "message_history"),
    *("dialogue_history", "dialog_history", "previous_turns", "prior_turns"),
)
NESTED = ("instances", "questions_and_answers")
"""Lists of inputs or questions with their answers, as in Self-Instruct's seed tasks and InstructLab's qna.yaml."""
UNUSABLE = {
    **dict.fromkeys(("tools", "functions"), "calls of tools are not learned; remove the rows that need them"),
    "previous_response_id": "the turns before it are not in the row; put them into it, or remove the row",
    **dict.fromkeys(("choices", "options"), "a choice is not shown to the model; write it into the prompt"),
    **dict.fromkeys(
        ("image", "images", "image_path", "image_url", "audio", "audios", "video", "videos"),
        "only texts are learned; remove the rows that need it",
    ),
}
KNOWN = sorted({*FORMS, *RESPONSES, *CHATS})
SAME = {
    name.replace("_", ""): name
    for name in (*KNOWN, REJECTED, *PASSAGES, *OTHER_PASSAGES, *SYSTEMS, *HISTORIES, *NESTED, *UNUSABLE, "id", "category")
}
for _what in ("response", "answer", "output", "completion"):
    SAME |= dict.fromkeys((f"chosen{_what}", f"preferred{_what}", f"good{_what}"), CHOSEN)
    SAME |= dict.fromkeys((f"rejected{_what}", f"nonpreferred{_what}", f"bad{_what}"), REJECTED)
for _what in (
    *("kontext", "contexto", "contexte", "contesto", "kontekst"),
    *("konteks", "контекст", "上下文", "文脈", "맥락", "السياق"),
):
    SAME[_what] = "context"
SAME |= {"输入": "input", "입력": "input", "入力": "input"}
"""The names that the reader knows, by how they are told: case, spaces, hyphens and underscores do not count."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


for _known, _others in {
    "system": "sysprompt systemrole systemanweisung 系统 系统提示 系统提示词 системныйпромпт システムプロンプト",
    "history": "pastmessages priormessages historial historique verlauf gesprächsverlauf 历史 历史对话 对话历史 履歴 会話履歴"
    " 대화기록",
    "category": "kategorie kategori categoría catégorie categoria kategoria kategorija kategória luokka категория категорія"
    " κατηγορία"
    " 类别 類別 分类 分類 カテゴリ 카테고리 קטגוריה الفئة فئة श्रेणी หมวดหมู่ danhmục",
}.items():
    SAME |= dict.fromkeys(_names(_others), _known)
ASKING = _names(
    "q prompts questions instructions inputs request problem message userprompt usermessage userquery userquestion userinput"
    " inputtext textinput questiontext prompttext transcript dialogue dialog"
    " frage pregunta pergunta domanda pytanie vraag fråga spørgsmål spørsmål otázka kysymys kérdés întrebare soru câuhỏi"
    " pertanyaan swali вопрос питання ερώτηση שאלה السؤال سؤال سوال پرسش प्रश्न सवाल প্রশ্ন கேள்வி คำถาม"
    " 질문 지시 質問 問題 问题 提问 指令"
)
"""Other names of a prompt; only where a row has none that `read` knows, and one of these."""
BETTER = frozenset(
    which + what
    for which in _names(
        "ideal expected reference gold golden best better target correct corrected edited revised improved final human"
    )
    for what in ("response", "answer", "output", "completion", "reply")
) | {"ideal", "corrected", "groundtruth", "solution", "expected", "reference"}
"""Names of an answer that may be the one to learn also where another stands beside it; which one it is, the user must say."""
EDITED = frozenset(name for name in BETTER if name.startswith(("correct", "edited", "revised", "improved")))
ANSWERING = BETTER | _names(
    "a responses answers outputs completions targets target reply generation outputtext targettext answertext responsetext"
    " modelresponse modelanswer modeloutput assistantresponse assistantmessage assistantreply botresponse botmessage longanswer"
    " antwort respuesta resposta risposta réponse odpowiedź odpověď antwoord svar vastaus válasz răspuns cevap yanıt trảlời"
    " jawaban jibu ответ відповідь απάντηση תשובה الجواب الإجابة جواب إجابة پاسخ उत्तर जवाब উত্তর பதில் คำตอบ"
    " 답변 대답 응답 回答 答案 回复 输出"
)
"""Other names of a response; only where a row has none that `read` knows, and one of these."""
TOGETHER = (
    ({"user", "human", "prompter"}, {"assistant", "bot", "gpt", "chatbot", "ai"}),
    ({"customer", "client", "customermessage", "customerquestion"}, {"agent", "support", "agentreply", "agentresponse"}),
    ({"用户"}, {"助手"}),
    ({"source", "src"}, {"target", "tgt"}),
    ({"text", "sentence", "input"}, {"label"}),
)
"""Names that mean a prompt and its response next to one another; alone they are as often a person, an origin or a class."""


@lru_cache(4096)  # the rows of a file share their names
def told(name: str) -> str:
    """A name as it is compared: without case, spaces, hyphens, underscores and a colon at its end."""
    return plain_name(name).rstrip(":：")


def is_known(name: str) -> bool:
    """Whether a column of this name can hold what is learned."""
    key = told(name)
    return key in SAME or key in ASKING or key in ANSWERING or any(key in side for pair in TOGETHER for side in pair)


def is_shared(name: str) -> bool:
    """Whether a text of this name beside an array of rows is a part of each of them."""
    return SAME.get(told(name)) in (*FORMS, *SYSTEMS, *PASSAGES, *OTHER_PASSAGES, "category")
