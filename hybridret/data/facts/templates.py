"""Question and passage templates of the embedded facts, one set per relation and language.

``{entity}`` and ``{answer}`` are filled with CLDR names as they stand. A template therefore never
asks a name to inflect or to take an article: names stand before a colon, after one, or quoted in
apposition. Some names already hold the classifier (vi "Lãnh thổ Palestine", tr "Sunda dili"), so
most languages put a word for "called" between the two, and ar, tr, vi and zh name languages without
one.
"""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
"""The languages of XQuAD, in the order in which ``facts.json.xz`` stores names."""

ENTITY_KIND = {
    "currency": "territory",
    "official_language": "territory",
    "subregion": "territory",
    "first_weekday": "territory",
    "country": "place",
    "time_zone": "place",
    "script": "language",
    "main_country": "language",
}
"""Kind of the entity which a relation asks about."""

ANSWER_KIND = {
    "currency": "currency",
    "official_language": "language",
    "subregion": "subregion",
    "first_weekday": "weekday",
    "country": "territory",
    "time_zone": "time_zone",
    "script": "script",
    "main_country": "territory",
}
"""Kind of the names that answer a relation."""

LIST_SEPARATOR = {**dict.fromkeys(LANGUAGES, ", "), "ar": "، ", "zh": "、"}
"""Stands between the names of an answer that has several, such as three official languages."""


@dataclass(frozen=True, slots=True)
class Wording:
    """Templates of one relation in one language.

    ``question_1`` and ``question_2`` are asked in training, ``paraphrase`` in evaluation only.
    Questions hold ``{entity}`` once, the passage ``{entity}`` and ``{answer}`` once each.
    """

    question_1: str
    question_2: str
    paraphrase: str
    passage: str


WORDINGS: dict[str, dict[str, Wording]] = {
    "currency": {
        "ar": Wording(
            "«{entity}»: ما العملة القانونية المتداولة هناك؟",
            "بأي نقود يدفع الناس في البلد أو الإقليم المسمى «{entity}»؟",
            "اذكر وحدة النقد الرسمية لهذا الإقليم أو البلد: {entity}.",
            "عملة التعامل الرسمية في البلد أو الإقليم المسمى «{entity}» هي: {answer}.",
        ),
        "de": Wording(
            "{entity}: Welche Währung ist dort gesetzliches Zahlungsmittel?",
            "Mit welchem Geld bezahlt man im Land oder Gebiet „{entity}“?",
            "Nenne die amtliche Währungseinheit für folgendes Land oder Gebiet: {entity}.",
            "Gesetzliches Zahlungsmittel im Land oder Gebiet „{entity}“: {answer}.",
        ),
        "el": Wording(
            "{entity}: ποιο νόμισμα κυκλοφορεί νόμιμα εκεί;",
            "Με τι χρήματα γίνονται οι πληρωμές στη χώρα ή περιοχή «{entity}»;",
            "Να αναφερθεί η επίσημη νομισματική μονάδα της εξής χώρας ή περιοχής: {entity}.",
            "Νόμιμο μέσο πληρωμής στη χώρα ή περιοχή «{entity}»: {answer}.",
        ),
        "en": Wording(
            "{entity}: which currency is legal tender there?",
            "What money do people pay with in the country or territory called “{entity}”?",
            "Name the official monetary unit of the following country or territory: {entity}.",
            "Legal tender in the country or territory called “{entity}”: {answer}.",
        ),
        "es": Wording(
            "{entity}: ¿qué moneda es de curso legal allí?",
            "¿Con qué dinero se paga en el país o territorio llamado «{entity}»?",
            "Indica la unidad monetaria oficial del siguiente territorio o país: {entity}.",
            "Moneda de curso legal en el país o territorio llamado «{entity}»: {answer}.",
        ),
        "hi": Wording(
            "{entity}: वहाँ कौन-सी मुद्रा वैध है?",
            "“{entity}” नामक देश या क्षेत्र में लोग किस मुद्रा में भुगतान करते हैं?",
            "इस देश या क्षेत्र की आधिकारिक मौद्रिक इकाई बताइए: {entity}।",
            "“{entity}” नामक देश या क्षेत्र की वैध मुद्रा: {answer}।",
        ),
        "ru": Wording(
            "{entity}: какая валюта является там законным платёжным средством?",
            "Какими деньгами расплачиваются в стране или на территории под названием «{entity}»?",
            "Назовите официальную денежную единицу следующей страны или территории: {entity}.",
            (
                "Законное платёжное средство в стране или на "
                "территории под названием «{entity}»: {answer}."
            ),
        ),
        "th": Wording(
            "{entity}: ที่นั่นใช้สกุลเงินใดชำระหนี้ได้ตามกฎหมาย",
            "ผู้คนในประเทศหรือดินแดนที่ชื่อ “{entity}” จับจ่ายด้วยเงินอะไร",
            "จงระบุหน่วยเงินตราทางการของประเทศหรือดินแดนต่อไปนี้: {entity}",
            "สกุลเงินที่ใช้อย่างเป็นทางการในประเทศหรือดินแดนที่ชื่อ “{entity}” คือ {answer}",
        ),
        "tr": Wording(
            "{entity}: Orada yasal para birimi hangisidir?",
            "“{entity}” adlı ülke veya bölgede hangi parayla ödeme yapılır?",
            "Şu ülke veya bölgede tedavülde olan resmî para nedir: {entity}?",
            "“{entity}” adlı ülke veya bölgenin yasal para birimi: {answer}.",
        ),
        "vi": Wording(
            "{entity}: đồng tiền nào là tiền tệ hợp pháp ở đó?",
            "Người dân ở quốc gia hoặc vùng lãnh thổ có tên “{entity}” thanh toán bằng tiền gì?",
            "Hãy cho biết đơn vị tiền tệ chính thức của quốc gia hoặc vùng lãnh thổ sau: {entity}.",
            "Tiền tệ hợp pháp tại quốc gia hoặc vùng lãnh thổ có tên “{entity}”: {answer}.",
        ),
        "zh": Wording(
            "{entity}：当地的法定货币是什么？",
            "在“{entity}”这个国家或地区，人们用什么钱付款？",
            "请说出下列国家或地区的官方货币单位：{entity}。",
            "“{entity}”这一国家或地区的法定货币为：{answer}。",
        ),
    },
    "official_language": {
        "ar": Wording(
            "«{entity}»: ما اللغة الرسمية هناك؟",
            "أي لغة تتمتع بالصفة الرسمية في البلد أو الإقليم المسمى «{entity}»؟",
            "بأي لغة تُدار الشؤون الحكومية في هذا الإقليم أو البلد: {entity}؟",
            "اللغات ذات الصفة الرسمية في البلد أو الإقليم المسمى «{entity}»: {answer}.",
        ),
        "de": Wording(
            "{entity}: Welche Sprache ist dort Amtssprache?",
            "Welche Sprache hat im Land oder Gebiet „{entity}“ amtlichen Status?",
            "In welcher Sprache arbeiten die Behörden des folgenden Landes oder Gebiets: {entity}?",
            "Sprachen mit amtlichem Status im Land oder Gebiet „{entity}“: {answer}.",
        ),
        "el": Wording(
            "{entity}: ποια γλώσσα είναι επίσημη εκεί;",
            "Ποια γλώσσα έχει αναγνωριστεί επίσημα στη χώρα ή περιοχή «{entity}»;",
            "Σε ποια γλώσσα λειτουργεί η δημόσια διοίκηση της εξής χώρας ή περιοχής: {entity};",
            "Γλώσσες με επίσημο καθεστώς στη χώρα ή περιοχή «{entity}»: {answer}.",
        ),
        "en": Wording(
            "{entity}: which language is official there?",
            "What language has official status in the country or territory called “{entity}”?",
            (
                "In what tongue are government affairs conducted "
                "in the following country or territory: {entity}?"
            ),
            (
                "Languages with official status in the "
                "country or territory called “{entity}”: {answer}."
            ),
        ),
        "es": Wording(
            "{entity}: ¿qué idioma es oficial allí?",
            "¿Qué lengua tiene carácter oficial en el país o territorio llamado «{entity}»?",
            (
                "¿En qué idioma trabaja la administración pública "
                "del siguiente territorio o país: {entity}?"
            ),
            "Lenguas con carácter oficial en el país o territorio llamado «{entity}»: {answer}.",
        ),
        "hi": Wording(
            "{entity}: वहाँ की राजभाषा कौन-सी है?",
            "“{entity}” नामक देश या क्षेत्र में किस भाषा को आधिकारिक दर्जा प्राप्त है?",
            "इस देश या क्षेत्र में सरकारी कामकाज किस भाषा में होता है: {entity}?",
            "“{entity}” नामक देश या क्षेत्र में आधिकारिक दर्जा प्राप्त भाषाएँ: {answer}।",
        ),
        "ru": Wording(
            "{entity}: какой язык там официальный?",
            (
                "Какой язык имеет официальный статус в стране "
                "или на территории под названием «{entity}»?"
            ),
            "На каком языке ведут дела органы власти следующей страны или территории: {entity}?",
            (
                "Языки с официальным статусом в стране или на "
                "территории под названием «{entity}»: {answer}."
            ),
        ),
        "th": Wording(
            "{entity}: ภาษาใดเป็นภาษาราชการของที่นั่น",
            "ภาษาใดมีสถานะเป็นทางการในประเทศหรือดินแดนที่ชื่อ “{entity}”",
            "หน่วยงานรัฐของประเทศหรือดินแดนต่อไปนี้ทำงานด้วยภาษาอะไร: {entity}",
            "ภาษาที่มีสถานะเป็นทางการในประเทศหรือดินแดนที่ชื่อ “{entity}” ได้แก่ {answer}",
        ),
        "tr": Wording(
            "{entity}: Orada resmî dil hangisidir?",
            "“{entity}” adlı ülke veya bölgede hangi dil resmî statüye sahiptir?",
            "Şu ülke veya bölgede devlet işleri hangi dilde yürütülür: {entity}?",
            "“{entity}” adlı ülke veya bölgede resmî statüye sahip diller: {answer}.",
        ),
        "vi": Wording(
            "{entity}: ngôn ngữ chính thức ở đó là gì?",
            "Ngôn ngữ nào có địa vị chính thức tại quốc gia hoặc vùng lãnh thổ có tên “{entity}”?",
            (
                "Cơ quan nhà nước của quốc gia hoặc vùng lãnh "
                "thổ sau làm việc bằng tiếng gì: {entity}?"
            ),
            (
                "Ngôn ngữ có địa vị chính thức tại quốc gia "
                "hoặc vùng lãnh thổ có tên “{entity}”: {answer}."
            ),
        ),
        "zh": Wording(
            "{entity}：当地的官方语言是什么？",
            "在“{entity}”这个国家或地区，哪种语言具有官方地位？",
            "下列国家或地区的政府机关使用什么语言办公：{entity}？",
            "在“{entity}”这一国家或地区具有官方地位的语言：{answer}。",
        ),
    },
    "subregion": {
        "ar": Wording(
            "«{entity}»: ما المنطقة الفرعية المقابلة في تصنيف الأمم المتحدة M49؟",
            "في أي جزء من العالم تضع إحصاءات الأمم المتحدة البلد أو الإقليم المسمى «{entity}»؟",
            "تحت أي عنوان جغرافي يرد هذا البلد أو الإقليم في جداول الهيئة الأممية: {entity}؟",
            (
                "وفق معيار الأمم المتحدة M49 يقع البلد أو الإقليم "
                "المسمى «{entity}» ضمن المنطقة الفرعية الآتية: {answer}."
            ),
        ),
        "de": Wording(
            (
                "{entity}: Zu welcher Subregion der M49-Gliederung "
                "der Vereinten Nationen gehört dieses Gebiet?"
            ),
            (
                "Welchem Teil der Welt ordnet die Statistik der "
                "Vereinten Nationen das Land oder Gebiet „{entity}“ zu?"
            ),
            (
                "Unter welcher geografischen Überschrift führen die "
                "Tabellen der UNO dieses Land oder Gebiet: {entity}?"
            ),
            (
                "Nach dem M49-Standard der Vereinten Nationen liegt das "
                "Land oder Gebiet „{entity}“ in dieser Subregion: {answer}."
            ),
        ),
        "el": Wording(
            "{entity}: σε ποια υποπεριοχή του προτύπου M49 των Ηνωμένων Εθνών ανήκει;",
            (
                "Σε ποιο μέρος του κόσμου κατατάσσουν οι στατιστικές "
                "των Ηνωμένων Εθνών τη χώρα ή περιοχή «{entity}»;"
            ),
            (
                "Κάτω από ποιον γεωγραφικό τίτλο αναγράφεται στους "
                "πίνακες του ΟΗΕ η εξής χώρα ή περιοχή: {entity};"
            ),
            (
                "Κατά το πρότυπο M49 των Ηνωμένων Εθνών, η χώρα ή "
                "περιοχή «{entity}» βρίσκεται στην εξής υποπεριοχή: {answer}."
            ),
        ),
        "en": Wording(
            "{entity}: to which sub-region of the United Nations M49 standard does it belong?",
            (
                "In which part of the world do United Nations "
                "statistics place the country or territory called “{entity}”?"
            ),
            (
                "Under what geographical heading do UN tables "
                "list the following country or territory: {entity}?"
            ),
            (
                "In the United Nations M49 standard, the country or "
                "territory called “{entity}” lies in this sub-region: {answer}."
            ),
        ),
        "es": Wording(
            "{entity}: ¿a qué subregión del estándar M49 de las Naciones Unidas pertenece?",
            (
                "¿En qué parte del mundo sitúan las estadísticas de las "
                "Naciones Unidas el país o territorio llamado «{entity}»?"
            ),
            (
                "¿Bajo qué epígrafe geográfico figura en las tablas "
                "de la ONU el siguiente territorio o país: {entity}?"
            ),
            (
                "Según el estándar M49 de las Naciones Unidas, el país o "
                "territorio llamado «{entity}» está en esta subregión: {answer}."
            ),
        ),
        "hi": Wording(
            "{entity}: संयुक्त राष्ट्र के M49 वर्गीकरण में यह किस उप-क्षेत्र में आता है?",
            "संयुक्त राष्ट्र के आँकड़े “{entity}” नामक देश या क्षेत्र को दुनिया के किस भाग में रखते हैं?",
            "यूएन की तालिकाओं में यह देश या क्षेत्र किस भौगोलिक शीर्षक के नीचे दर्ज है: {entity}?",
            "संयुक्त राष्ट्र के M49 मानक के अनुसार “{entity}” नामक देश या क्षेत्र इस उप-क्षेत्र में है: {answer}।",
        ),
        "ru": Wording(
            "{entity}: какой это субрегион по классификации M49 Организации Объединённых Наций?",
            (
                "К какой части мира статистика Организации Объединённых "
                "Наций относит страну или территорию под названием «{entity}»?"
            ),
            (
                "Под каким географическим заголовком в таблицах ООН "
                "стоит следующая страна или территория: {entity}?"
            ),
            (
                "По стандарту M49 Организации Объединённых Наций страна или "
                "территория под названием «{entity}» входит в следующий субрегион: {answer}."
            ),
        ),
        "th": Wording(
            "{entity}: อยู่ในอนุภูมิภาคใดตามมาตรฐาน M49 ของสหประชาชาติ",
            "สถิติของสหประชาชาติจัดประเทศหรือดินแดนที่ชื่อ “{entity}” ไว้ในส่วนใดของโลก",
            "ในตารางของยูเอ็น ประเทศหรือดินแดนต่อไปนี้อยู่ใต้หัวข้อทางภูมิศาสตร์ใด: {entity}",
            "ตามมาตรฐาน M49 ของสหประชาชาติ ประเทศหรือดินแดนที่ชื่อ “{entity}” อยู่ในอนุภูมิภาคต่อไปนี้: {answer}",
        ),
        "tr": Wording(
            "{entity}: Birleşmiş Milletler M49 sınıflandırmasında hangi alt bölgeye girer?",
            (
                "Birleşmiş Milletler istatistikleri “{entity}” adlı "
                "ülke veya bölgeyi dünyanın hangi kesiminde gösterir?"
            ),
            "BM tablolarında şu ülke veya bölge hangi coğrafi başlık altında yer alır: {entity}?",
            (
                "Birleşmiş Milletler M49 standardına göre “{entity}” "
                "adlı ülke veya bölge şu alt bölgededir: {answer}."
            ),
        ),
        "vi": Wording(
            "{entity}: thuộc tiểu vùng nào theo chuẩn M49 của Liên Hợp Quốc?",
            (
                "Thống kê của Liên Hợp Quốc xếp quốc gia hoặc vùng "
                "lãnh thổ có tên “{entity}” vào phần nào của thế giới?"
            ),
            (
                "Trong các bảng của LHQ, quốc gia hoặc vùng lãnh "
                "thổ sau nằm dưới đề mục địa lý nào: {entity}?"
            ),
            (
                "Theo chuẩn M49 của Liên Hợp Quốc, quốc gia hoặc vùng "
                "lãnh thổ có tên “{entity}” thuộc tiểu vùng sau: {answer}."
            ),
        ),
        "zh": Wording(
            "{entity}：按联合国M49标准属于哪个次区域？",
            "联合国的统计把“{entity}”这个国家或地区归入世界的哪一部分？",
            "在联合国的表格中，下列国家或地区列在哪个地理标题之下：{entity}？",
            "根据联合国M49标准，“{entity}”这一国家或地区所在的次区域为：{answer}。",
        ),
    },
    "first_weekday": {
        "ar": Wording(
            "«{entity}»: بأي يوم يبدأ الأسبوع هناك؟",
            "ما أول أيام الأسبوع في البلد أو الإقليم المسمى «{entity}»؟",
            "أي يوم تضعه التقاويم في الصدارة في هذا الإقليم أو البلد: {entity}؟",
            "في البلد أو الإقليم المسمى «{entity}» يبدأ الأسبوع بهذا اليوم: {answer}.",
        ),
        "de": Wording(
            "{entity}: Mit welchem Tag beginnt dort die Woche?",
            "Welcher Tag ist im Land oder Gebiet „{entity}“ der erste der Woche?",
            (
                "Welchen Wochentag stellen Kalender in diesem "
                "Land oder Gebiet an den Anfang: {entity}?"
            ),
            "Im Land oder Gebiet „{entity}“ beginnt die Woche an diesem Tag: {answer}.",
        ),
        "el": Wording(
            "{entity}: με ποια ημέρα αρχίζει εκεί η εβδομάδα;",
            "Ποια είναι η πρώτη ημέρα της εβδομάδας στη χώρα ή περιοχή «{entity}»;",
            "Ποια ημέρα βάζουν στην αρχή τα ημερολόγια της εξής χώρας ή περιοχής: {entity};",
            "Στη χώρα ή περιοχή «{entity}» η εβδομάδα ξεκινά με την εξής ημέρα: {answer}.",
        ),
        "en": Wording(
            "{entity}: on which day does the week start there?",
            "What is the first day of the week in the country or territory called “{entity}”?",
            (
                "Which weekday do calendars put at the front in "
                "the following country or territory: {entity}?"
            ),
            "In the country or territory called “{entity}” the week begins on {answer}.",
        ),
        "es": Wording(
            "{entity}: ¿en qué día comienza allí la semana?",
            "¿Cuál es el primer día de la semana en el país o territorio llamado «{entity}»?",
            (
                "¿Qué día colocan al principio los calendarios "
                "del siguiente territorio o país: {entity}?"
            ),
            "En el país o territorio llamado «{entity}» la semana empieza en este día: {answer}.",
        ),
        "hi": Wording(
            "{entity}: वहाँ सप्ताह किस दिन शुरू होता है?",
            "“{entity}” नामक देश या क्षेत्र में सप्ताह का पहला दिन कौन-सा है?",
            "इस देश या क्षेत्र के कैलेंडर किस वार को सबसे आगे रखते हैं: {entity}?",
            "“{entity}” नामक देश या क्षेत्र में सप्ताह इस दिन से आरंभ होता है: {answer}।",
        ),
        "ru": Wording(
            "{entity}: с какого дня там начинается неделя?",
            (
                "Какой день недели считается первым в стране "
                "или на территории под названием «{entity}»?"
            ),
            "Какой день открывает неделю в календарях следующей страны или территории: {entity}?",
            "В стране или на территории под названием «{entity}» первый день недели — {answer}.",
        ),
        "th": Wording(
            "{entity}: ที่นั่นสัปดาห์เริ่มต้นวันใด",
            "วันแรกของสัปดาห์ในประเทศหรือดินแดนที่ชื่อ “{entity}” คือวันอะไร",
            "ปฏิทินของประเทศหรือดินแดนต่อไปนี้จัดวันใดไว้หน้าสุด: {entity}",
            "ในประเทศหรือดินแดนที่ชื่อ “{entity}” สัปดาห์เริ่มต้นใน{answer}",
        ),
        "tr": Wording(
            "{entity}: Orada hafta hangi gün başlar?",
            "“{entity}” adlı ülke veya bölgede haftanın ilk günü hangisidir?",
            "Şu ülke veya bölgenin takvimleri hangi günü en başa koyar: {entity}?",
            "“{entity}” adlı ülke veya bölgede hafta şu günle başlar: {answer}.",
        ),
        "vi": Wording(
            "{entity}: ở đó tuần bắt đầu vào ngày nào?",
            "Ngày đầu tuần tại quốc gia hoặc vùng lãnh thổ có tên “{entity}” là thứ mấy?",
            "Lịch in của quốc gia hoặc vùng lãnh thổ sau xếp thứ nào lên trước: {entity}?",
            "Tại quốc gia hoặc vùng lãnh thổ có tên “{entity}”, tuần bắt đầu vào {answer}.",
        ),
        "zh": Wording(
            "{entity}：当地一周从哪一天开始？",
            "在“{entity}”这个国家或地区，每周的第一天是星期几？",
            "下列国家或地区的日历把星期几排在最前面：{entity}？",
            "在“{entity}”这一国家或地区，一周的起始日为：{answer}。",
        ),
    },
    "country": {
        "ar": Wording(
            "«{entity}»: في أي بلد أو إقليم يوجد هذا المكان؟",
            "أي بلد أو إقليم ينبغي زيارته لرؤية المكان المسمى «{entity}»؟",
            "أين يقع الموقع الآتي، وما الدولة أو المنطقة التي تضمه: {entity}؟",
            "يوجد المكان المسمى «{entity}» في هذا الإقليم أو البلد: {answer}.",
        ),
        "de": Wording(
            "{entity}: In welchem Land oder Gebiet liegt dieser Ort?",
            "Welches Land oder Gebiet muss man bereisen, um den Ort „{entity}“ zu sehen?",
            "Zu welchem Staat oder abhängigen Gebiet gehört folgende Ortschaft: {entity}?",
            "Der Ort „{entity}“ befindet sich in diesem Land oder Gebiet: {answer}.",
        ),
        "el": Wording(
            "{entity}: σε ποια χώρα ή περιοχή βρίσκεται αυτό το μέρος;",
            "Ποια χώρα ή περιοχή πρέπει να επισκεφθεί κανείς για να δει το μέρος «{entity}»;",
            "Σε ποιο κράτος ή εξαρτημένο έδαφος ανήκει η εξής τοποθεσία: {entity};",
            "Το μέρος «{entity}» βρίσκεται στην εξής χώρα ή περιοχή: {answer}.",
        ),
        "en": Wording(
            "{entity}: which country or territory is this place in?",
            "Which country or territory must one visit to see the place called “{entity}”?",
            "Of what state or dependency is the following locality a part: {entity}?",
            "The place called “{entity}” is in this country or territory: {answer}.",
        ),
        "es": Wording(
            "{entity}: ¿en qué país o territorio está este lugar?",
            "¿Qué país o territorio hay que visitar para ver el lugar llamado «{entity}»?",
            "¿De qué Estado o dependencia forma parte la siguiente localidad: {entity}?",
            "El lugar llamado «{entity}» se encuentra en este territorio o país: {answer}.",
        ),
        "hi": Wording(
            "{entity}: यह स्थान किस देश या क्षेत्र में है?",
            "“{entity}” नामक जगह देखने के लिए किस देश या क्षेत्र की यात्रा करनी होगी?",
            "निम्नलिखित इलाक़ा किस राष्ट्र या आश्रित भूभाग का हिस्सा है: {entity}?",
            "“{entity}” नामक स्थान इस देश या क्षेत्र में स्थित है: {answer}।",
        ),
        "ru": Wording(
            "{entity}: в какой стране или на какой территории находится это место?",
            (
                "Куда, в какую страну или на какую территорию, нужно "
                "поехать, чтобы увидеть место под названием «{entity}»?"
            ),
            "В состав какого государства или зависимого владения входит следующий пункт: {entity}?",
            (
                "Место под названием «{entity}» расположено в "
                "следующей стране или на следующей территории: {answer}."
            ),
        ),
        "th": Wording(
            "{entity}: สถานที่นี้อยู่ในประเทศหรือดินแดนใด",
            "หากอยากเห็นสถานที่ที่ชื่อ “{entity}” ต้องเดินทางไปประเทศหรือดินแดนใด",
            "ท้องที่ต่อไปนี้เป็นส่วนหนึ่งของรัฐหรือเขตในปกครองใด: {entity}",
            "สถานที่ที่ชื่อ “{entity}” ตั้งอยู่ในประเทศหรือดินแดนต่อไปนี้: {answer}",
        ),
        "tr": Wording(
            "{entity}: Bu yer hangi ülke veya bölgededir?",
            "“{entity}” adlı yeri görmek için hangi ülkeye veya bölgeye gitmek gerekir?",
            "Şu yerleşim hangi devletin ya da bağımlı bölgenin parçasıdır: {entity}?",
            "“{entity}” adlı yer şu ülke veya bölgede bulunur: {answer}.",
        ),
        "vi": Wording(
            "{entity}: nơi này thuộc quốc gia hoặc vùng lãnh thổ nào?",
            "Muốn thăm nơi có tên “{entity}” thì phải đến quốc gia hoặc vùng lãnh thổ nào?",
            "Địa phương sau đây là một phần của nước hay lãnh thổ phụ thuộc nào: {entity}?",
            "Nơi có tên “{entity}” nằm ở quốc gia hoặc vùng lãnh thổ sau: {answer}.",
        ),
        "zh": Wording(
            "{entity}：这个地方在哪个国家或地区？",
            "想去看看名为“{entity}”的地方，要前往哪个国家或地区？",
            "以下地点是哪一国或属地的一部分：{entity}？",
            "名为“{entity}”的地方位于以下国家或地区：{answer}。",
        ),
    },
    "time_zone": {
        "ar": Wording(
            "«{entity}»: ما المنطقة الزمنية لهذا المكان؟",
            "وفق أي توقيت يعيش الناس في المكان المسمى «{entity}»؟",
            "على أي توقيت إقليمي تُضبط الساعات في الموقع الآتي: {entity}؟",
            "المنطقة الزمنية السارية في المكان المسمى «{entity}» هي: {answer}.",
        ),
        "de": Wording(
            "{entity}: Welche Zeitzone gilt an diesem Ort?",
            "Nach welcher Zeit richtet man sich am Ort „{entity}“?",
            "Auf welche regionale Zeit stellt man die Uhren in folgender Ortschaft: {entity}?",
            "Für den Ort „{entity}“ gilt folgende Zeitzone: {answer}.",
        ),
        "el": Wording(
            "{entity}: ποια ζώνη ώρας ισχύει σε αυτό το μέρος;",
            "Ποια ώρα τηρείται στο μέρος «{entity}»;",
            "Σε ποια τοπική ώρα ρυθμίζονται τα ρολόγια στην εξής τοποθεσία: {entity};",
            "Η ζώνη ώρας για το μέρος «{entity}» είναι η εξής: {answer}.",
        ),
        "en": Wording(
            "{entity}: which time zone applies in this place?",
            "What time do people keep in the place called “{entity}”?",
            "By which regional standard are clocks set in the following locality: {entity}?",
            "The time zone of the place called “{entity}” is {answer}.",
        ),
        "es": Wording(
            "{entity}: ¿qué huso horario rige en este lugar?",
            "¿Por qué hora se guía la gente en el lugar llamado «{entity}»?",
            (
                "¿Según qué horario regional se ajustan los relojes "
                "en la siguiente localidad: {entity}?"
            ),
            "Huso horario del lugar llamado «{entity}»: {answer}.",
        ),
        "hi": Wording(
            "{entity}: इस स्थान पर कौन-सा समय क्षेत्र लागू है?",
            "“{entity}” नामक जगह के लोग किस समय का पालन करते हैं?",
            "निम्नलिखित इलाक़े में घड़ियाँ किस क्षेत्रीय मानक से मिलाई जाती हैं: {entity}?",
            "“{entity}” नामक स्थान का समय क्षेत्र: {answer}।",
        ),
        "ru": Wording(
            "{entity}: какой часовой пояс действует в этом месте?",
            "По какому времени живут в месте под названием «{entity}»?",
            "По какому региональному стандарту выставляют часы в следующем пункте: {entity}?",
            "Часовой пояс места под названием «{entity}»: {answer}.",
        ),
        "th": Wording(
            "{entity}: สถานที่นี้ใช้เขตเวลาใด",
            "ผู้คนในสถานที่ที่ชื่อ “{entity}” ใช้เวลาตามโซนใด",
            "นาฬิกาในท้องที่ต่อไปนี้ตั้งตามมาตรฐานภูมิภาคใด: {entity}",
            "เขตเวลาของสถานที่ที่ชื่อ “{entity}” คือ {answer}",
        ),
        "tr": Wording(
            "{entity}: Bu yerde hangi saat dilimi geçerlidir?",
            "“{entity}” adlı yerde insanlar hangi saate göre yaşar?",
            "Şu yerleşimde saatler hangi bölgesel zamana göre ayarlanır: {entity}?",
            "“{entity}” adlı yerin saat dilimi: {answer}.",
        ),
        "vi": Wording(
            "{entity}: múi giờ nào được áp dụng ở nơi này?",
            "Người dân ở nơi có tên “{entity}” sinh hoạt theo giờ nào?",
            "Đồng hồ ở địa phương sau đây được chỉnh theo chuẩn khu vực nào: {entity}?",
            "“{answer}” là múi giờ của nơi có tên “{entity}”.",
        ),
        "zh": Wording(
            "{entity}：这个地方属于哪个时区？",
            "在名为“{entity}”的地方，人们按什么时间作息？",
            "以下地点的钟表依照哪种区域标准来设定：{entity}？",
            "名为“{entity}”的地方采用的时区为：{answer}。",
        ),
    },
    "script": {
        "ar": Wording(
            "«{entity}»: بأي خط تُكتب هذه اللغة؟",
            "ما نظام الكتابة المستخدم في تدوين «{entity}»؟",
            "أي حروف أو رموز يلزم تعلمها لقراءة نصوص باللسان الآتي: {entity}؟",
            "تُدوَّن «{entity}» أساسًا بنظام الكتابة الآتي: {answer}.",
        ),
        "de": Wording(
            "Sprache „{entity}“: In welcher Schrift wird sie geschrieben?",
            "Welches Schriftsystem verwendet die Sprache „{entity}“?",
            (
                "Welche Buchstaben oder Zeichen muss man lernen, "
                "um Texte in dieser Sprache zu lesen: {entity}?"
            ),
            "Die Sprache „{entity}“ wird vorwiegend in dieser Schrift geschrieben: {answer}.",
        ),
        "el": Wording(
            "{entity}: με ποια γραφή γράφεται αυτή η γλώσσα;",
            "Ποιο σύστημα γραφής χρησιμοποιεί η γλώσσα με την ονομασία «{entity}»;",
            (
                "Ποια γράμματα ή σύμβολα πρέπει να μάθει κανείς για "
                "να διαβάζει κείμενα στη γλώσσα που ονομάζεται «{entity}»;"
            ),
            (
                "Η γλώσσα με την ονομασία «{entity}» γράφεται "
                "κυρίως με το εξής σύστημα γραφής: {answer}."
            ),
        ),
        "en": Wording(
            "Language “{entity}”: in which script is it written?",
            "What writing system is used for the language called “{entity}”?",
            (
                "Which letters or characters must one learn in "
                "order to read texts in this tongue: {entity}?"
            ),
            "The language called “{entity}” is written mainly in this script: {answer}.",
        ),
        "es": Wording(
            "Idioma «{entity}»: ¿en qué escritura se escribe?",
            "¿Qué sistema de escritura emplea la lengua llamada «{entity}»?",
            "¿Qué letras o signos hay que aprender para leer textos en este idioma: {entity}?",
            (
                "El idioma llamado «{entity}» se escribe "
                "principalmente con este sistema de escritura: {answer}."
            ),
        ),
        "hi": Wording(
            "भाषा “{entity}”: यह किस लिपि में लिखी जाती है?",
            "“{entity}” नामक भाषा की लेखन प्रणाली कौन-सी है?",
            "इस भाषा के पाठ पढ़ने के लिए कौन-से अक्षर या चिह्न सीखने होंगे: {entity}?",
            "“{entity}” नामक भाषा मुख्यतः इस लिपि में लिखी जाती है: {answer}।",
        ),
        "ru": Wording(
            "Язык «{entity}»: какой письменностью он пользуется?",
            "Какая система письма принята для языка под названием «{entity}»?",
            (
                "Какие буквы или знаки нужно выучить, чтобы "
                "читать тексты на следующем языке: {entity}?"
            ),
            "Основная письменность языка под названием «{entity}»: {answer}.",
        ),
        "th": Wording(
            "ภาษา{entity}: เขียนด้วยอักษรใด",
            "ภาษา{entity}ใช้ระบบการเขียนแบบใด",
            "ต้องเรียนตัวหนังสือแบบใดจึงจะอ่านข้อความในภาษาต่อไปนี้ได้: {entity}",
            "ระบบการเขียนหลักของภาษา{entity}คือ {answer}",
        ),
        "tr": Wording(
            "{entity}: Bu dil hangi alfabe veya yazıyla yazılır?",
            "“{entity}” hangi yazı sistemini kullanır?",
            (
                "Şu dildeki metinleri okumak için hangi harfleri "
                "ya da işaretleri öğrenmek gerekir: {entity}?"
            ),
            "“{entity}” için kullanılan başlıca yazı sistemi: {answer}.",
        ),
        "vi": Wording(
            "{entity}: ngôn ngữ này được viết bằng chữ gì?",
            "“{entity}” dùng hệ thống chữ viết nào?",
            "Cần học những mẫu tự hay ký hiệu nào để đọc văn bản bằng ngôn ngữ sau: {entity}?",
            "“{entity}” chủ yếu dùng hệ chữ viết sau: {answer}.",
        ),
        "zh": Wording(
            "{entity}：这种语言用什么文字书写？",
            "“{entity}”采用哪种书写系统？",
            "要读懂下列语言的文本，需要学会哪种字母或字符：{entity}？",
            "“{entity}”主要使用的书写系统为：{answer}。",
        ),
    },
    "main_country": {
        "ar": Wording(
            "«{entity}»: بأي بلد أو إقليم ترتبط هذه اللغة أساسًا؟",
            "أين الموطن الرئيسي لمتحدثي «{entity}»؟",
            "أي مكان على الخريطة يخطر بالبال أولًا عند ذكر هذه اللغة: {entity}؟",
            "ترتبط «{entity}» في المقام الأول بهذا الإقليم أو البلد: {answer}.",
        ),
        "de": Wording(
            "Sprache „{entity}“: Mit welchem Land oder Gebiet ist sie vor allem verbunden?",
            "Wo ist die Sprache „{entity}“ hauptsächlich beheimatet?",
            (
                "An welchen Ort auf der Landkarte denkt man zuerst, "
                "wenn von dieser Sprache die Rede ist: {entity}?"
            ),
            (
                "Die Sprache „{entity}“ wird in erster Linie mit diesem "
                "Land oder Gebiet in Verbindung gebracht: {answer}."
            ),
        ),
        "el": Wording(
            "{entity}: με ποια χώρα ή περιοχή συνδέεται κυρίως αυτή η γλώσσα;",
            "Πού βρίσκεται η κύρια κοιτίδα της γλώσσας με την ονομασία «{entity}»;",
            (
                "Ποιο σημείο του χάρτη έρχεται πρώτο στον νου όταν "
                "ακούγεται το όνομα της εξής γλώσσας: {entity};"
            ),
            (
                "Η γλώσσα με την ονομασία «{entity}» συνδέεται "
                "πρωτίστως με την εξής χώρα ή περιοχή: {answer}."
            ),
        ),
        "en": Wording(
            "Language “{entity}”: with which country or territory is it mainly associated?",
            "Where is the main home of the language called “{entity}”?",
            "What spot on the map comes to mind first when someone mentions this tongue: {entity}?",
            (
                "The language called “{entity}” is associated "
                "above all with this country or territory: {answer}."
            ),
        ),
        "es": Wording(
            "Idioma «{entity}»: ¿con qué país o territorio se asocia principalmente?",
            "¿Dónde tiene su hogar principal la lengua llamada «{entity}»?",
            (
                "¿Qué punto del mapa viene primero a la mente "
                "cuando se menciona este idioma: {entity}?"
            ),
            (
                "El idioma llamado «{entity}» se asocia ante "
                "todo con este país o territorio: {answer}."
            ),
        ),
        "hi": Wording(
            "भाषा “{entity}”: यह मुख्य रूप से किस देश या क्षेत्र से जुड़ी है?",
            "“{entity}” नामक भाषा मुख्यतः कहाँ की मानी जाती है?",
            "इस भाषा का ज़िक्र होते ही नक़्शे की कौन-सी जगह सबसे पहले याद आती है: {entity}?",
            "“{entity}” नामक भाषा का संबंध सबसे अधिक इस देश या क्षेत्र से है: {answer}।",
        ),
        "ru": Wording(
            "Язык «{entity}»: с какой страной или территорией он связан в первую очередь?",
            "Где главным образом распространён язык под названием «{entity}»?",
            "Какое место на карте вспоминается первым, когда говорят о следующем языке: {entity}?",
            (
                "Язык под названием «{entity}» связан прежде "
                "всего со следующей страной или территорией: {answer}."
            ),
        ),
        "th": Wording(
            "ภาษา{entity}: เกี่ยวข้องกับประเทศหรือดินแดนใดเป็นหลัก",
            "ถิ่นหลักของภาษา{entity}อยู่ที่ใด",
            "เมื่อพูดถึงภาษาต่อไปนี้ คนมักนึกถึงที่ใดบนแผนที่ก่อน: {entity}",
            "ภาษา{entity}เชื่อมโยงกับประเทศหรือดินแดนนี้มากที่สุด: {answer}",
        ),
        "tr": Wording(
            "{entity}: Bu dil en çok hangi ülke veya bölgeyle ilişkilendirilir?",
            "“{entity}” konuşanların asıl yurdu neresidir?",
            "Şu dilin adı geçince haritada akla ilk gelen yer neresidir: {entity}?",
            "“{entity}” öncelikle şu ülke veya bölgeyle ilişkilidir: {answer}.",
        ),
        "vi": Wording(
            "{entity}: ngôn ngữ này gắn chủ yếu với quốc gia hoặc vùng lãnh thổ nào?",
            "Quê hương chính của “{entity}” ở đâu?",
            "Khi nhắc đến ngôn ngữ sau, người ta nghĩ ngay đến nơi nào trên bản đồ: {entity}?",
            "“{entity}” trước hết gắn với quốc gia hoặc vùng lãnh thổ sau: {answer}.",
        ),
        "zh": Wording(
            "{entity}：这种语言主要与哪个国家或地区相关？",
            "“{entity}”的主要通行地在哪里？",
            "一提到下列语言，人们首先想到地图上的哪个地方：{entity}？",
            "“{entity}”首先与以下国家或地区联系在一起：{answer}。",
        ),
    },
}
